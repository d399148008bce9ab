package ring

import (
	"slices"
	"testing"
)

// Two live epochs, of three members and of the same three and one more.
func twoEpochs(t *testing.T) (*Epochs, Layout) {
	t.Helper()
	next := families[0].layout(4, 9)
	next.Epoch = 2
	old := next
	old.Epoch, old.Members = 1, slices.Clone(next.Members[:3])
	e, err := NewEpochs([]*Ring{mustNew(t, old, 3), mustNew(t, next, 3)}, 1, []NodeID{old.Members[0].ID})
	if err != nil {
		t.Fatal(err)
	}
	return e, next
}

func TestEpochsHoldWhatAnyOfThemHolds(t *testing.T) {
	e, next := twoEpochs(t)
	joiner := next.Members[3].ID
	filling := e.Filling(joiner)
	if !slices.Equal(filling, e.Held(joiner)) || len(filling) != e.Newest().Owns(joiner) {
		t.Errorf("the joiner is to be filled with %d partitions and holds %d", len(filling), len(e.Held(joiner)))
	}
	for p := range e.Partitions() {
		holders := e.Holders(p)
		if len(holders) < 3 || len(holders) > 4 || !slices.Equal(holders[:3], e.Base().Primaries(p)) {
			t.Fatalf("partition %d has holders %v", p, holders)
		}
		for _, m := range next.Members {
			if slices.Contains(holders, m.ID) != e.Holds(p, m.ID) {
				t.Errorf("partition %d: %s among the holders, or not", p, m.Name)
			}
		}
	}
	if len(e.Members()) != 4 || len(e.Base().Members()) != 3 {
		t.Errorf("%d members", len(e.Members()))
	}
	if _, ok := e.Member(joiner); !ok || !e.Removed(next.Members[0].ID) || e.Removed(joiner) {
		t.Error("members not told apart")
	}
	if e.Changing() != true || e.FullySettled() || e.At(2) != e.Newest() || e.At(3) != nil {
		t.Error("epochs not told apart")
	}
}

func TestEpochsAreOrdered(t *testing.T) {
	e, _ := twoEpochs(t)
	for name, rings := range map[string][]*Ring{
		"none": nil, "twice": {e.Base(), e.Base()}, "backward": {e.Newest(), e.Base()},
	} {
		if _, err := NewEpochs(rings, 1, nil); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}

// Reads can go by a newer ring than the base, and what was given out before does not change.
func TestReadingGoesByTheBaseUnlessTold(t *testing.T) {
	e, _ := twoEpochs(t)
	next, err := e.ReadBy(2)
	if err != nil || next.Reading() != e.Newest() || next.Base() != e.Base() || e.Reading() != e.Base() {
		t.Errorf("reads go by epoch %d, %v", next.Reading().Epoch(), err)
	}
	if _, err := e.ReadBy(3); err == nil {
		t.Error("reads by an epoch that does not live")
	}
}

func TestOneEpochAllocatesNothing(t *testing.T) {
	r := mustNew(t, families[0].layout(5, 1), 3)
	e, err := NewEpochs([]*Ring{r}, 1, nil)
	if err != nil {
		t.Fatal(err)
	}
	id := r.Members()[0].ID
	if n := testing.AllocsPerRun(100, func() {
		_ = e.Holders(e.Partition("b", "k"))
		_ = e.Holds(1, id)
		_ = e.Members()
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}
