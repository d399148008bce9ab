package vclock

import (
	"fmt"
	"testing"

	"pgregory.net/rapid"
)

// The text of a dot is part of the HTTP interface.
func TestDotText(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		d := Dot{
			Actor:   Actor{Birth: Birth{Millis: rapid.Uint64().Draw(t, "millis"), Rand: rapid.Uint64().Draw(t, "rand")}},
			Counter: rapid.Uint64().Draw(t, "counter"),
		}
		copy(d.Actor.Node[:], rapid.SliceOfN(rapid.Byte(), 16, 16).Draw(t, "node"))
		want := fmt.Sprintf("%x.%x.%016x.%d", d.Actor.Node[:], d.Actor.Birth.Millis, d.Actor.Birth.Rand, d.Counter)
		if d.String() != want {
			t.Fatalf("%s, want %s", d, want)
		}
	})
}
