package reaper

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"testing"
	"testing/synctest"

	"github.com/dunlindb/dunlin/ring"
)

// changing is a fake whose view can be in the middle of a change.
type changing struct {
	*fake
	newest  uint64 // 0: the fake's
	told    uint64 // what Learn can learn
	learnt  int
	blocked chan struct{} // not nil: EnterRound waits for it
}

func (c *changing) Ring() *ring.Ring {
	if c.Newest() != c.fake.Newest() {
		return nil
	}
	return c.fake.Ring()
}

func (c *changing) Newest() uint64 {
	c.mu.Lock()
	newest := c.newest
	c.mu.Unlock()
	if newest == 0 {
		return c.fake.Newest()
	}
	return newest
}

func (c *changing) Learn(_ context.Context, _ ring.NodeID, epoch uint64) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.learnt++
	if epoch > c.told {
		return errors.New("not told")
	}
	c.newest = epoch
	return nil
}

func (c *changing) EnterRound(ctx context.Context, p int, round uint64, primary bool, ks []Statement) ([]bool, error) {
	if c.blocked != nil {
		<-c.blocked
	}
	return c.fake.EnterRound(ctx, p, round, primary, ks)
}

func newChanging(t *testing.T) (*changing, *Reaper) {
	t.Helper()
	c := &changing{fake: newFake(), told: 2}
	d := c.deps()
	d.Store, d.View = c, c
	r, err := New(d, Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(r.Close)
	return c, r
}

func TestRoundsAreToldAtTheNewestEpochOnly(t *testing.T) {
	c, r := newChanging(t)
	c.round = 5
	ask := func(epoch uint64) ([]uint64, error) {
		b, err := r.handleRounds(t.Context(), ring.NodeID{9}, (&roundsRequest{epoch, []int{0}}).encode())
		if err != nil {
			return nil, err
		}
		return decodeRounds(b, 1)
	}
	if _, err := ask(3); !errors.Is(err, ErrEpoch) || c.learnt != 1 {
		t.Errorf("an epoch that cannot be learnt: %v", err)
	}
	if got, err := ask(1); err != nil || got[0] != 5 || c.learnt != 1 {
		t.Errorf("the present epoch: %v, %v", got, err)
	}
	if got, err := ask(2); err != nil || got[0] != 5 || c.Newest() != 2 {
		t.Errorf("a new epoch: %v, %v, newest %d", got, err, c.Newest())
	}
	if _, err := ask(1); !errors.Is(err, ErrEpoch) {
		t.Errorf("an older epoch: %v", err)
	}
	if _, err := r.handleRounds(t.Context(), ring.NodeID{9}, []byte("garbage")); err == nil {
		t.Error("garbage is answered")
	}
}

// Whoever has told its round under a new epoch enters none with a statement under the old one, also when the request
// had come before: the joiner that was told would be in too early a round.
func TestNoStatementAfterTheRoundWasTold(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, r := newChanging(t)
		release, err := r.lock(t.Context(), 0) // the store is busy with another round
		if err != nil {
			t.Fatal(err)
		}
		entered := make(chan error)
		go func() {
			_, err := r.handleEnter(t.Context(), ringIDs[1], (&request{epoch: 1, round: 1, keys: statements(0, 1)}).encode())
			entered <- err
		}()
		synctest.Wait()
		if err := c.Learn(t.Context(), ringIDs[1], 2); err != nil {
			t.Fatal(err)
		}
		release()
		if err := <-entered; !errors.Is(err, ErrEpoch) || c.Round(0) != 0 {
			t.Errorf("a statement under an old epoch: %v, round %d", err, c.Round(0))
		}
	})
}

func TestARoundThatIsBeingEnteredIsTold(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, r := newChanging(t)
		c.blocked = make(chan struct{})
		entered, told := make(chan error), make(chan []uint64)
		go func() {
			_, err := r.handleEnter(t.Context(), ringIDs[1], (&request{epoch: 1, round: 1, keys: statements(0, 1)}).encode())
			entered <- err
		}()
		synctest.Wait()
		go func() {
			b, err := r.handleRounds(t.Context(), ring.NodeID{9}, (&roundsRequest{2, []int{0}}).encode())
			if err != nil {
				t.Error(err)
			}
			rounds, err := decodeRounds(b, 1)
			if err != nil {
				t.Error(err)
			}
			told <- rounds
		}()
		synctest.Wait()
		close(c.blocked)
		if err := <-entered; err != nil {
			t.Error(err)
		}
		if rounds := <-told; !reflect.DeepEqual(rounds, []uint64{1}) {
			t.Errorf("told %v while round 1 was being entered", rounds)
		}
	})
}

func TestCatchUpAllWhileMembersChange(t *testing.T) {
	c, r := newChanging(t)
	if err := c.Learn(t.Context(), ringIDs[1], 2); err != nil {
		t.Fatal(err)
	}
	if err := r.CatchUpAll(t.Context(), map[int]uint64{0: 4}); err != nil || c.round != 4 {
		t.Errorf("%v, round %d", err, c.round)
	}
	if err := r.CatchUpAll(t.Context(), map[int]uint64{0: maxRound + 1}); !errors.Is(err, ErrEpoch) {
		t.Error(err)
	}
}

func TestRoundsOfManyPartitions(t *testing.T) {
	c, r := newChanging(t)
	c.round = 7
	d := c.deps()
	d.Peers = callHandler{r}
	asker, err := New(d, Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer asker.Close()
	var ps []int
	for p := range 2*maxAskedRounds + 3 {
		ps = append(ps, p)
	}
	got, err := asker.Rounds(t.Context(), ringIDs[1], 2, ps)
	if err != nil || len(got) != len(ps) || got[0] != 7 {
		t.Fatalf("%d rounds, %v", len(got), err)
	}
}

type callHandler struct{ r *Reaper }

func (c callHandler) Call(ctx context.Context, _ ring.NodeID, endpoint string, body []byte) ([]byte, error) {
	return c.r.Handlers()[endpoint](ctx, ring.NodeID{9}, body)
}

// The layout changes at each step of a round in turn, and each set of members hears of it at that moment; the others
// later. Whatever was decided, nothing comes back, nothing stays marked or open, and reaping goes on afterwards.
func TestALayoutChangeInTheMiddleOfEachStep(t *testing.T) {
	steps := 0
	for at := 0; at <= steps; at++ {
		for who := range 1 << nodes {
			s := newScene(t, rules{})
			old := s.at(1, s.v1, 2)
			s.delete()
			count := 0
			s.script = func(letter, bool) error {
				if count++; count == at {
					for i := range s.views {
						if who>>i&1 == 1 {
							s.views[i].learnt = 1
						}
					}
				}
				return nil
			}
			s.reap()
			steps = max(steps, count)
			s.script = nil
			late := append([]letter(nil), s.letters...)
			for i := range s.views {
				s.views[i].learnt = 1
			}
			s.reap()
			s.arrives(old)
			for i := range s.views { // one after the other
				s.views[i].over = 1
				s.visit(0)
				s.arrives(old)
			}
			for _, l := range late { // of the old epoch
				s.deliverLetter(t.Context(), l)
			}
			s.calm = true
			if err := s.settle(); err != nil {
				t.Fatalf("step %d, learnt by %04b: %v", at, who, err)
			}
			s.arrives(old)
			if s.shown() {
				t.Fatalf("step %d, learnt by %04b: the deleted value is back", at, who)
			}
		}
	}
	if steps < 20 {
		t.Errorf("only %d steps", steps)
	}
}

func FuzzRounds(f *testing.F) {
	f.Add((&roundsRequest{3, []int{1, 500}}).encode(), encodeRounds([]uint64{4, 5}))
	f.Fuzz(func(t *testing.T, ask, answer []byte) {
		if m, err := decodeRoundsRequest(ask); err == nil {
			if again, err := decodeRoundsRequest(m.encode()); err != nil || fmt.Sprint(again) != fmt.Sprint(m) {
				t.Errorf("%+v became %+v: %v", m, again, err)
			}
		}
		if rounds, err := decodeRounds(answer, 2); err == nil && len(rounds) != 2 {
			t.Errorf("%d rounds", len(rounds))
		}
	})
}
