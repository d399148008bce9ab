package coordinator

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/dunlindb/dunlin/vclock"
)

// Where two of three disks are full, tries must not pile up values on the third: what is known is decided before the
// mint, and one write in a while looks whether there is room again.
func TestNothingIsMintedWhereOthersAreFull(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 3)
		defer w.close()
		own, _ := w.primaries("k")
		put := func() *QuorumError {
			t.Helper()
			_, err := w.put(own[0], PutRequest{Key: "k", Write: value("x")})
			synctest.Wait()
			if err == nil {
				return nil
			}
			return quorumError(t, err)
		}
		for _, n := range own[1:] {
			n.full = ErrFull
		}
		if q := put(); q == nil || q.Kind != Full || q.Outcome != Indeterminate {
			t.Fatalf("the first is minted: %+v", q)
		}
		for range 10 {
			if q := put(); q == nil || q.Kind != Full || q.Outcome != None {
				t.Fatalf("it is known that there is no room: %+v", q)
			}
		}
		if _, err := w.put(own[0], PutRequest{Key: "k", W: 1, Write: value("x")}); err != nil {
			t.Fatalf("W=1 has its room: %v", err)
		}
		if n := len(own[0].records[own[0].key("k")].Object.Siblings); n != 2 {
			t.Fatalf("%d values, want those of the first and of W=1", n)
		}
		time.Sleep(fullPause)
		tries := 0
		for range 10 {
			if q := put(); q != nil && q.Outcome == Indeterminate {
				tries++
			}
		}
		if tries != 1 {
			t.Fatalf("%d of 10 writes looked whether there is room, want 1", tries)
		}
		for _, n := range own[1:] {
			n.full = nil
		}
		time.Sleep(fullPause)
		if q := put(); q != nil {
			t.Fatalf("there is room again: %+v", q)
		}
		for range 10 {
			if q := put(); q != nil {
				t.Fatalf("it is known that there is room again: %+v", q)
			}
		}
	})
}

// Deletes are taken where values are not, and say nothing about room for values.
func TestDeletesAreTriedWhereDisksAreFull(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 3)
		defer w.close()
		own, _ := w.primaries("k")
		for _, n := range own[1:] {
			own[0].c.full.note(n.id)
		}
		if _, err := w.put(own[0], PutRequest{Key: "k", Write: vclock.Write{Deleted: true}, HasContext: true}); err != nil {
			t.Fatalf("a delete is always tried: %v", err)
		}
		_, err := w.put(own[0], PutRequest{Key: "k", Write: value("x")})
		if q := quorumError(t, err); q.Kind != Full || q.Outcome != None {
			t.Fatalf("%+v", q)
		}
	})
}
