package loadgen

import (
	"errors"
	"math"
	"strings"
	"testing"
	"time"
)

func TestValidateNamesTheField(t *testing.T) {
	good := testSpec()
	if err := good.Validate(); err != nil {
		t.Fatal(err)
	}
	for field, spoil := range map[string]func(*Spec){
		"connections": func(s *Spec) { s.Connections = 0 },
		"rate":        func(s *Spec) { s.Rate = math.NaN() },
		"arrivals":    func(s *Spec) { s.Rate, s.Arrivals = 1, "often" },
		"mix":         func(s *Spec) { s.Mix = Mix{} },
		"dist":        func(s *Spec) { s.Dist = "normal" },
		"theta":       func(s *Spec) { s.Dist, s.Theta = Zipfian, 1 },
		"keys":        func(s *Spec) { s.Keys = MaxKeys + 1 },
		"value_size":  func(s *Spec) { s.ValueSize = SizeRange{3, 2} },
		"warmup":      func(s *Spec) { s.Warmup = -1 },
		"ops":         func(s *Spec) { s.Ops = -1 },
		"duration":    func(s *Spec) { s.Ops, s.Duration = 0, 0 },
	} {
		s := good
		spoil(&s)
		var got *Invalid
		if err := s.Validate(); !errors.As(err, &got) || got.Field != field {
			t.Errorf("%s: %v", field, err)
		}
	}
	good.Duration = -time.Second
	if good.Validate() == nil {
		t.Error("a negative duration passes")
	}
}

func TestMixText(t *testing.T) {
	for text, want := range map[string]Mix{
		"get": {Get: 1}, "put=50,get=50": {Put: 50, Get: 50}, "put=1, get=8,delete=1": {Put: 1, Get: 8, Delete: 1}, "put=0,get": {Get: 1},
	} {
		var m Mix
		if err := m.UnmarshalText([]byte(text)); err != nil || m != want {
			t.Errorf("%q: %v %v", text, m, err)
		}
		var again Mix
		if err := again.UnmarshalText([]byte(m.String())); err != nil || again != m {
			t.Errorf("%q: %v is read back as %v (%v)", text, m, again, err)
		}
	}
	for text, said := range map[string]string{
		"": "no kind", "push=1": "no kind", "put=-1": "no share", "put=x": "no share", "put=0": "no share to any", "put=1,put=2": "twice", "put=9999999": "no share",
	} {
		var m Mix
		if err := m.UnmarshalText([]byte(text)); err == nil || !strings.Contains(err.Error(), said) {
			t.Errorf("%q: %v, want %q", text, err, said)
		}
	}
	n := 0
	m := Mix{Put: 2, Get: 3, Delete: 1}
	for i := range m.total() {
		if m.at(i) == Get {
			n++
		}
	}
	if n != 3 {
		t.Errorf("%d of 6 places are gets", n)
	}
}

func TestSizeText(t *testing.T) {
	for text, want := range map[string]SizeRange{"0": {0, 0}, "1024": {1024, 1024}, "1KiB": {1024, 1024}, "100..2000": {100, 2000}, "1KiB..1MiB": {1024, 1 << 20}} {
		var s SizeRange
		if err := s.UnmarshalText([]byte(text)); err != nil || s != want {
			t.Errorf("%q: %v %v", text, s, err)
		}
	}
	for _, text := range []string{"", "x", "-1", "5..2", "1..", "99999MiB", "1 KiB", "1K"} {
		var s SizeRange
		if err := s.UnmarshalText([]byte(text)); err == nil {
			t.Errorf("%q passes as %v", text, s)
		}
	}
}
