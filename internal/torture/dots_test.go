package torture

import "testing"

// The watch finds what it is for.
func TestDotWatch(t *testing.T) {
	w := &dotWatch{seen: map[string]string{}}
	sibling := func(dot string, size int) map[string]any { return map[string]any{"dot": dot, "size": size} }
	w.note("k", sibling("a.1", 1))
	w.note("k", sibling("a.1", 1))
	w.note("k", sibling("a.2", 2))
	w.note("l", sibling("a.1", 3))
	if len(w.violations) > 0 {
		t.Errorf("nothing is wrong, but: %q", w.violations)
	}
	w.note("k", sibling("a.1", 2))
	if len(w.violations) != 1 {
		t.Errorf("%q, want one violation", w.violations)
	}
	w.look("k", `{"replicas":[{"copy":{"siblings":[{"dot":"a.2","size":9}]}},{"hint":{"siblings":[{"dot":"a.3","size":1}]}},{}]}`)
	w.look("k", `{"replicas":`)
	if len(w.violations) != 3 || w.seen["k a.3"] == "" {
		t.Errorf("%q, want three violations; seen %v", w.violations, w.seen)
	}
}
