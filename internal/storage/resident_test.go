package storage

import (
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/dgraph-io/badger/v4"
	"github.com/dgraph-io/badger/v4/table"
)

// mapped is how many bytes of these files are resident in this test's process.
func mapped(t *testing.T, files []string) (bytes int) {
	t.Helper()
	smaps, err := os.ReadFile("/proc/self/smaps")
	if err != nil {
		t.Skipf("needs Linux: %v", err)
	}
	ours := false
	for line := range strings.Lines(string(smaps)) {
		fields := strings.Fields(line)
		if !strings.HasSuffix(fields[0], ":") { // the first line of a mapping
			ours = slices.Contains(files, fields[len(fields)-1])
		}
		if ours && fields[0] == "Rss:" {
			kib, err := strconv.Atoi(fields[1])
			if err != nil {
				t.Fatal(err)
			}
			bytes += kib << 10
		}
	}
	return bytes
}

// What was written to tables does not stay in memory for that, and can be read.
func TestTablesAreLetGo(t *testing.T) {
	o := Options{Durability: OS, CacheBytes: -1, tune: func(o badger.Options) badger.Options { return smallMemTables(o).WithNumCompactors(0) }}
	s, _ := openTest(t, t.TempDir(), o)
	levels := tableLevels(s.db)
	if len(levels) != s.db.Opts().MaxLevels {
		t.Fatalf("%d levels found: badger has its tables elsewhere", len(levels))
	}
	fill(t, s, func() bool { return len(s.db.Tables()) >= 8 })
	var files []string
	for _, x := range levels[0].hold(func(*table.Table) bool { return true }) {
		files = append(files, x.Fd.Name())
		if err := x.DecrRef(); err != nil {
			t.Error(err)
		}
	}
	if len(files) < 8 {
		t.Fatalf("%d tables found: badger has its tables elsewhere", len(files))
	}
	before := mapped(t, files)
	if before < 4<<20 {
		t.Fatalf("only %d bytes of new tables are resident: there is nothing to let go", before)
	}
	// As if they were a lower level's: what reads have mapped of old tables stays.
	lower := []tableLevel{{mu: new(sync.RWMutex), tables: new([]*table.Table)}, levels[0]}
	if letGo(lower, time.Now().Add(time.Hour)); mapped(t, files) < before {
		t.Errorf("%d bytes of tables were resident, and %d after young ones alone were let go", before, mapped(t, files))
	}
	if letGo(lower, time.Now().Add(-time.Hour)); mapped(t, files) > before/4 {
		t.Errorf("%d bytes of tables were resident, and %d after young ones were let go", before, mapped(t, files))
	}
	for i := range 8 {
		if st := get(t, s, Key{0, "b", fmt.Sprintf("key-%05d", i)}); len(st.Record.Siblings) != 1 || len(st.Record.Siblings[0].Value) != 32<<10 {
			t.Fatalf("key %d afterwards: %d siblings", i, len(st.Record.Siblings))
		}
	}
	again := mapped(t, files)
	if letGo(levels, time.Now().Add(time.Hour)); again == 0 || mapped(t, files) > again/2 {
		t.Errorf("%d bytes of tables were resident after reads, and %d after those of level 0 were let go", again, mapped(t, files))
	}
}

// Where most of what is mapped stays mapped, the store tries less and less often, and at once again when it is of use.
func TestRestAfterLettingGo(t *testing.T) {
	const much = 10 * residentMost
	rest := time.Duration(residentEvery)
	for want := 2 * rest; rest < residentRest; want = min(2*want, residentRest) {
		if rest = nextRest(rest, much, much-much/8); rest != want {
			t.Fatalf("rests for %v, want %v", rest, want)
		}
	}
	for _, c := range []struct{ before, after int64 }{
		{much, much / 2},
		{2*residentMost + 1, 2 * residentMost}, // a small store: a compaction may map much at any moment
		{residentMost + 1, residentMost},
	} {
		if got := nextRest(rest, c.before, c.after); got != residentEvery {
			t.Errorf("from %d to %d bytes: rests for %v", c.before, c.after, got)
		}
	}
	if got := nextRest(rest, much, much); got != residentRest {
		t.Errorf("rests for %v at most, want %v", got, residentRest)
	}
}
