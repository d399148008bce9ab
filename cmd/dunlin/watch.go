package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/vbauerster/cupwriter"
	"golang.org/x/sync/errgroup"

	"github.com/dunlindb/dunlin/client"
)

const (
	leastInterval   = 100 * time.Millisecond
	transferTimeout = time.Second // for one member to tell how far it is
	transferAsks    = 16          // members asked at the same time
	barWidth        = 20
)

// memberTransfers is how far one member is filled.
type memberTransfers struct {
	Node string `json:"node"`
	client.Transfers
	Failed string `json:"error,omitempty"` // it could not be asked
}

// watcher shows the status again and again.
type watcher struct {
	cmd     *statusCmd
	s       *streams
	screen  *cupwriter.Writer // nil: lines
	cluster *client.Client
	peers   map[string]*client.Client // by base URL
	last    clusterStatus
	printed map[string]told // by what a line is about: what was printed of it last
}

// watch shows the status until ctx ends. Only the first look may fail.
func (c *statusCmd) watch(ctx context.Context, s *streams) error {
	if c.Interval < leastInterval {
		return fmt.Errorf("--interval: %s is too short; use %s or more", c.Interval, leastInterval)
	}
	w := &watcher{cmd: c, s: s, peers: map[string]*client.Client{}, printed: map[string]told{}}
	defer w.close()
	if n, _ := columns(s.out); n >= leastColumns && c.Output == "table" {
		w.screen = cupwriter.New(s.out, false)
	}
	var err error
	if w.cluster, err = c.connect(ctx, client.Options{Tries: 2}); err != nil {
		return err
	}
	tick := time.NewTicker(c.Interval)
	defer tick.Stop()
	for first := true; ; first = false {
		st, err := w.look(ctx)
		switch {
		case ctx.Err() != nil:
			return nil
		case err != nil && first:
			return err
		case err != nil:
			st = w.last
			st.Failed = reason(err)
		default:
			w.last = st
		}
		if err := w.show(st); err != nil {
			return err
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return nil
		}
	}
}

func (w *watcher) close() {
	for _, p := range w.peers {
		p.Close()
	}
	if w.cluster != nil {
		w.cluster.Close()
	}
}

// look asks one node for the members and the change, and every live member for its transfers.
func (w *watcher) look(ctx context.Context) (clusterStatus, error) {
	st, err := w.cmd.look(ctx, w.cluster)
	if err != nil {
		return st, err
	}
	one, cancel := context.WithTimeout(ctx, w.cmd.Timeout)
	defer cancel()
	change, err := w.cluster.Transfers(one)
	if err != nil {
		return st, plain(err)
	}
	now := time.Now()
	st.Time, st.Change = &now, &change
	st.Transfers, err = w.ask(ctx, st.Members)
	return st, err
}

// ask asks every live member how far it is. One that cannot be asked is no error.
func (w *watcher) ask(ctx context.Context, members []client.Member) ([]memberTransfers, error) {
	var (
		mu  sync.Mutex
		out []memberTransfers
		g   errgroup.Group
	)
	g.SetLimit(transferAsks)
	for _, m := range members {
		if !m.Alive || m.BaseURL() == "" {
			continue
		}
		peer, err := w.peer(m.BaseURL())
		if err != nil {
			return nil, err
		}
		g.Go(func() error {
			ctx, cancel := context.WithTimeout(ctx, transferTimeout)
			defer cancel()
			t := memberTransfers{Node: m.Name}
			var err error
			if t.Transfers, err = peer.Transfers(ctx); err != nil {
				t.Failed = reason(err)
			}
			mu.Lock()
			defer mu.Unlock()
			out = append(out, t)
			return nil
		})
	}
	_ = g.Wait() // none fails
	slices.SortFunc(out, func(a, b memberTransfers) int { return strings.Compare(a.Node, b.Node) })
	return out, nil
}

func (w *watcher) peer(url string) (*client.Client, error) {
	if p, ok := w.peers[url]; ok {
		return p, nil
	}
	p, err := client.New([]string{url}, client.Options{Tries: 1, UserAgent: "dunlin-cli"})
	if err == nil {
		w.peers[url] = p
	}
	return p, err
}

func (w *watcher) show(st clusterStatus) error {
	switch {
	case w.cmd.Output == "json":
		return json.NewEncoder(w.s.out).Encode(st)
	case w.screen != nil:
		width, height, err := w.screen.GetTermSize()
		if err != nil {
			return err
		}
		return w.draw(st, width, height)
	}
	return w.lines(st)
}

// draw replaces what was drawn last. Members that do not fit are left out first: a terminal that scrolls cannot be drawn
// on in place.
func (w *watcher) draw(st clusterStatus, width, height int) error {
	var table bytes.Buffer
	if err := st.table(&table); err != nil {
		return err
	}
	lines := strings.Split(strings.TrimSuffix(table.String(), "\n"), "\n")
	moving := st.moving()
	if most, have := max(height-1, 2), len(lines)+len(moving); have > most {
		lines = lines[:max(most-1-len(moving), 0)]
		moving = moving[:min(len(moving), most-1)]
		lines = append(lines, fmt.Sprintf("… %d lines more", have-len(lines)-len(moving)))
	}
	for _, x := range moving {
		lines = append(lines, x.text)
	}
	for _, line := range lines {
		w.screen.WriteString(clip(line, width) + "\n")
	}
	return w.screen.Flush(len(lines))
}

// clip shortens a line to some columns. Names and addresses have one column a letter.
func clip(line string, columns int) string {
	if r := []rune(line); len(r) > columns {
		return string(r[:columns-1]) + "…"
	}
	return line
}

// lines prints what has changed since it was printed last.
func (w *watcher) lines(st clusterStatus) error {
	all := append(st.news(), st.moving()...)
	about := map[string]bool{}
	for _, x := range all {
		about[x.about] = true
		if w.printed[x.about].text == x.text {
			continue
		}
		w.printed[x.about] = x
		if _, err := fmt.Fprintf(w.s.out, "%s %s\n", time.Now().Format(time.TimeOnly), x.text); err != nil {
			return err
		}
	}
	for _, a := range slices.Sorted(maps.Keys(w.printed)) {
		if about[a] {
			continue
		}
		if _, err := fmt.Fprintf(w.s.out, "%s %s\n", time.Now().Format(time.TimeOnly), w.printed[a].end); err != nil {
			return err
		}
		delete(w.printed, a)
	}
	return nil
}

// told is one line, what it is about, and what is printed when there is nothing more to say of that.
type told struct{ about, text, end string }

// news are lines about the members.
func (st clusterStatus) news() []told {
	var states []string
	for _, m := range st.Members {
		state := dash(m.State)
		if !m.Alive {
			state += ", NOT ALIVE"
		}
		states = append(states, fmt.Sprintf("%s (%s, %d partitions)", m.Name, state, m.Partitions))
	}
	out := []told{{"members", fmt.Sprintf("%d of %d alive: %s", len(st.Members)-len(st.NotAlive), len(st.Members), strings.Join(states, ", ")), ""}}
	if !st.Ready {
		out = append(out, told{"not ready", "not ready: " + st.Reason, "ready"})
	}
	return out
}

// moving are lines about the change of members that is under way and what each member does for it.
func (st clusterStatus) moving() []told {
	var out []told
	if st.Failed != "" {
		out = append(out, told{"no answer", "no answer from " + st.URL + ": " + st.Failed, st.URL + " answers again"})
	}
	if c := st.Change; c != nil && c.Changing {
		text := fmt.Sprintf("epoch %d is under way", c.Epoch)
		if len(c.WaitingFor) > 0 {
			text += ", waiting for those " + strings.Join(c.WaitingFor, "; ")
		}
		out = append(out, told{"change", text, fmt.Sprintf("epoch %d: through", c.Epoch)})
	}
	for _, t := range st.Transfers {
		if text := t.line(st.Change != nil && st.Change.Changing); text != "" {
			out = append(out, told{"node " + t.Node, t.Node + ": " + text, t.Node + ": done"})
		}
	}
	return out
}

// line is what a member does; empty: nothing, or what is of no interest while nothing changes.
func (t memberTransfers) line(changing bool) string {
	var parts []string
	switch {
	case t.Failed != "" && changing:
		return "cannot be asked: " + t.Failed
	case t.Failed != "":
		return ""
	case t.Changing && t.PartitionsToFill > 0:
		parts = append(parts, fmt.Sprintf("%s %d of %d partitions filled, %s", bar(t.PartitionsFilled, t.PartitionsToFill), t.PartitionsFilled, t.PartitionsToFill, size(t.Bytes)))
		if t.PartitionsFilled < t.PartitionsToFill && t.BytesPerSecond > 0 {
			parts = append(parts, size(int64(t.BytesPerSecond))+"/s")
		}
		if t.RemainingSeconds > 0 {
			parts = append(parts, "about "+time.Duration(t.RemainingSeconds*float64(time.Second)).Round(time.Second).String()+" left")
		}
		if len(t.From) > 0 {
			parts = append(parts, "from "+strings.Join(t.From, ", "))
		}
	}
	if len(t.NotAnswering) > 0 {
		parts = append(parts, "no answer from "+strings.Join(t.NotAnswering, ", "))
	}
	if t.PartitionsToDrop > 0 && !changing {
		parts = append(parts, fmt.Sprintf("%d partitions to drop", t.PartitionsToDrop))
	}
	return strings.Join(parts, ", ")
}

// bar is a share drawn in letters.
func bar(done, all int) string {
	n := barWidth * min(done, all) / max(all, 1)
	return "[" + strings.Repeat("#", n) + strings.Repeat("-", barWidth-n) + "]"
}
