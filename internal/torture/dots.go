package torture

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"math/rand/v2"
	"net/http"
	"sync"
	"time"
)

// dotWatch looks at what the replicas hold, all the time: a dot that is given to a second value destroys one of them,
// and might be gone again in the end.
type dotWatch struct {
	stop func()

	seen       map[string]string // what a dot of a key stands for
	violations []string
}

const (
	watchPause = 20 * time.Millisecond
	maxSeen    = 1 << 20 // dots; then it begins anew
)

// watchDots looks until it is stopped; the fields are for who has stopped it.
func watchDots(r *run) *dotWatch {
	ctx, cancel := context.WithCancel(context.Background())
	w := &dotWatch{seen: map[string]string{}}
	var wg sync.WaitGroup
	rnd := rand.New(rand.NewPCG(r.opt.Seed, 1<<33))
	wg.Go(func() {
		for ctx.Err() == nil {
			m, key := r.members[rnd.IntN(len(r.members))], r.clients.Key(rnd.IntN(keys))
			text, err := r.ask(ctx, http.MethodGet, m.URL("/cluster/explain/"+bucket+"/"+key+"?timeout=500ms"), "")
			if err == nil { // else it was killed, frozen, cut off
				w.look(key, text)
			}
			pause(ctx, watchPause)
		}
	})
	w.stop = func() {
		cancel()
		wg.Wait()
	}
	return w
}

func (w *dotWatch) look(key, text string) {
	type held struct{ Siblings []map[string]any }
	var doc struct{ Replicas []struct{ Copy, Hint *held } }
	if err := json.Unmarshal([]byte(text), &doc); err != nil {
		w.violations = append(w.violations, fmt.Sprintf("an explanation that cannot be read: %v", err))
		return
	}
	for _, r := range doc.Replicas {
		for _, h := range []*held{r.Copy, r.Hint} {
			if h == nil {
				continue
			}
			for _, s := range h.Siblings {
				w.note(key, s)
			}
		}
	}
}

// note compares a sibling with what its dot stood for before: size, type, time, and whether it is deleted.
func (w *dotWatch) note(key string, sibling map[string]any) {
	sibling = maps.Clone(sibling)
	dot := fmt.Sprintf("%s %v", key, sibling["dot"])
	delete(sibling, "dot")
	is := fmt.Sprint(sibling) // sorted by name
	if was, ok := w.seen[dot]; ok && was != is {
		w.violations = append(w.violations, fmt.Sprintf("one dot, two values: %s was %s and is %s", dot, was, is))
	}
	if len(w.seen) >= maxSeen {
		clear(w.seen)
	}
	w.seen[dot] = is
}
