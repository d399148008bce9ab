package main

import (
	"bytes"
	"context"
	"fmt"
	"image/color"
	"image/png"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"

	"github.com/dunlindb/dunlin/internal/loadgen"
)

func TestKeysGrowUpToWhatIsAskedFor(t *testing.T) {
	steps := []int{10, 100, 1000}
	for most, want := range map[int][]int{5: {5}, 10: {10}, 50: {10, 50}, 1000: {10, 100, 1000}, 2000: {10, 100, 1000, 2000}} {
		if got := upTo(steps, most); !slices.Equal(got, want) {
			t.Errorf("%d: %v, want %v", most, got, want)
		}
	}
}

func TestGrowthFlags(t *testing.T) {
	for args, keys := range map[string]int{"--growth": growthKeys, "--growth --keys 500": 500, "--growth --series keys,nodes": growthKeys, "": 100_000} {
		if s, err := parse(strings.Fields(args), io.Discard); err != nil || s.Keys != keys {
			t.Errorf("%s: %d keys, %v", args, s.Keys, err)
		}
	}
	for _, args := range []string{"--growth --join", "--overload --from x.json", "--growth --series weight", "--plot x.png"} {
		if _, err := parse(strings.Fields(args), io.Discard); err == nil {
			t.Errorf("%s passes", args)
		}
	}
	if s, _ := parse([]string{"--growth", "--series", "keys"}, io.Discard); !s.grows(overKeys) || s.grows(overNodes) {
		t.Error("other series than asked for")
	}
}

// pointOf has a PUT and a GET of each round.
func pointOf(x int, puts ...float64) point {
	p := point{X: x}
	for round, cpu := range puts {
		p.Runs = append(p.Runs, measurement{Round: round, Load: loadPut, CPU: cpu, Rate: 500, Lat: loadgen.Latency{P99: 7000}, Errors: 1},
			measurement{Round: round, Load: loadGet, CPU: cpu / 2, Rate: 900, Lat: loadgen.Latency{P99: 3000}, Missed: 2})
	}
	return p
}

func grown() *growth {
	few := pointOf(10_000, 100, 50, 200)
	sibling := pointOf(20, 80)
	sibling.Found = 23
	return &growth{
		Settings: settings{Rounds: 3, Keys: 2_000_000, plot: "docs/growth.png"},
		Series: []series{
			{overKeys, []point{pointOf(1000, 90, 80, 70), pointOf(2_000_000, 150, 100, 200)}},
			{overSiblings, []point{pointOf(1, 40), sibling}},
			{overNodes, []point{pointOf(3, 40)}},
		},
		Base:    &few,
		Listing: &listing{Keys: 2_000_000, Pages: 200, Bytes: 40e6, Seconds: 8, CPU: 5.5, Memory: []memory{{100 << 20, 150 << 20}, {90 << 20, 95 << 20}, {80 << 20, 81 << 20}}},
	}
}

func TestGrowthIsTold(t *testing.T) {
	text := grown().markdown()
	for _, want := range []string{
		"| 1,000 | 80.0 [70.0 to 90.0] | 7.00 | 500 | 40.0 [35.0 to 45.0] | 3.00 | 900 | 9 |",
		"With 2,000,000 keys a PUT costs 1.50 [1.00 to 2.00] × what it does with 10,000", // of the medians it would be 150/100, too
		"| 20 (23.0 in the end) |", "| 1 |", "![CPU of a PUT and of a GET over each series](growth.png)",
		"all 2,000,000 keys through one node, in pages of 10,000: 8.0 s, 250,000 keys/s, 5.0 MB/s, 5.50 us of CPU a key",
		"100 MiB before, 150 MiB at most meanwhile; of the others: 90 and 95 MiB, 80 and 81 MiB.",
	} {
		if !strings.Contains(text, want) {
			t.Errorf("no %q in:\n%s", want, text)
		}
	}
	if strings.Contains(text, "Preliminary") || strings.Contains(text, "| connections |") {
		t.Error("says more than was measured:", text)
	}
	g := grown()
	g.Base, g.Listing, g.Series = nil, nil, g.Series[:1]
	if text := g.markdown(); strings.Contains(text, "×") || strings.Contains(text, "listing") {
		t.Error("says more than was measured:", text)
	}
}

func TestGrowthIsDrawn(t *testing.T) {
	var b bytes.Buffer
	if err := grown().plot(&b); err != nil {
		t.Fatal(err)
	}
	img, err := png.Decode(&b)
	if err != nil {
		t.Fatal(err)
	}
	if got := img.Bounds().Size(); got.X != 2*panelWidth || got.Y != 2*panelHeight { // three panels
		t.Fatalf("%v", got)
	}
	// Each panel has pixels that are no shade of grey: curves.
	for i, drawn := range []bool{true, true, true, false} {
		coloured := false
		for x := range panelWidth {
			for y := range panelHeight - 60 {
				c := color.NRGBAModel.Convert(img.At(i%2*panelWidth+x, i/2*panelHeight+60+y)).(color.NRGBA)
				coloured = coloured || c.R != c.G || c.G != c.B
			}
		}
		if coloured != drawn {
			t.Errorf("panel %d: curves %v, want %v", i, coloured, drawn)
		}
	}
}

// wrote is who wrote which key where.
type wrote struct {
	node, index int
	key         string
}

type noting struct {
	node int
	to   *[]wrote
}

func (n noting) Do(op *loadgen.Op) loadgen.Answer {
	*n.to = append(*n.to, wrote{n.node, op.Index, string(op.Key)})
	return loadgen.Answer{}
}

func (noting) Close() {}

func TestNoTwoConnectionsWriteTheSameKeyOfSiblings(t *testing.T) {
	var seen []wrote
	dial := func(_ context.Context, i int) (loadgen.Conn, error) { return noting{i, &seen}, nil }
	const keys, workers = 10, 4
	owner := map[int]int{}
	for w := range workers {
		c, err := byKey{dial: dial, workers: workers, keys: keys}.dialer(t.Context(), w)
		if err != nil {
			t.Fatal(err)
		}
		seen = nil
		for i := range keys {
			c.Do(&loadgen.Op{Index: i, Key: []byte("other")})
		}
		for _, x := range seen {
			if before, taken := owner[x.index]; taken && before != w || x.index >= keys {
				t.Errorf("connection %d writes key %d, as %d does", w, x.index, before)
			}
			owner[x.index] = w
			if x.node != x.index%nodes || x.key != string(loadgen.AppendKey(nil, x.index)) {
				t.Errorf("%+v", x)
			}
		}
	}
	if len(owner) != keys {
		t.Errorf("%d of %d keys are written", len(owner), keys)
	}
	// The others of a key go to another node, and every key gets one.
	c, _ := byKey{dial: dial, shift: 1}.dialer(t.Context(), 2)
	seen = nil
	for i := range keys {
		c.Do(&loadgen.Op{Index: i})
	}
	for i, x := range seen {
		if x.index != i || x.node == i%nodes {
			t.Errorf("key %d: %+v", i, x)
		}
	}
}

// pagesOf serves a listing of so many keys in pages of three.
func pagesOf(t *testing.T, keys int, spoil func(line string) string) string {
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Accept") != "application/x-ndjson" || r.URL.Query().Get("limit") != "10000" {
			t.Errorf("%v %v", r.URL, r.Header)
		}
		first := 0
		_, _ = fmt.Sscanf(r.URL.Query().Get("after"), "k%d", &first)
		last := min(first+3, keys)
		for i := first + 1; i <= last; i++ {
			fmt.Fprintln(w, spoil(fmt.Sprintf(`{"key":"k%03d"}`, i)))
		}
		if last < keys {
			fmt.Fprintf(w, "{\"next\":\"k%03d\"}\n", last)
		}
	}))
	t.Cleanup(s.Close)
	return s.URL
}

func TestListingTurnsAllPages(t *testing.T) {
	for keys, pages := range map[int]int{0: 1, 3: 1, 4: 2, 100: 34} {
		l := &listing{}
		if err := l.pages(t.Context(), pagesOf(t, keys, func(s string) string { return s })); err != nil || l.Keys != keys || l.Pages != pages {
			t.Errorf("%d keys: %+v, %v", keys, l, err)
		}
		if want := int64(15*keys + 16*(pages-1)); l.Bytes != want {
			t.Errorf("%d keys: %d bytes, want %d", keys, l.Bytes, want)
		}
	}
	for from, to := range map[string]string{"k005": "k002", "k002": "k001", `"key"`: `"k"`} {
		if err := new(listing).pages(t.Context(), pagesOf(t, 9, func(s string) string { return strings.ReplaceAll(s, from, to) })); err == nil {
			t.Errorf("a listing with %s for %s passes", to, from)
		}
	}
}
