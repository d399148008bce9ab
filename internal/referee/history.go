package referee

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"sync"
	"time"
)

// Options are what the referee has to know of a run.
type Options struct {
	N   int      `json:"n"`             // replicas of each key
	LWW []string `json:"lww,omitempty"` // buckets in which the last writer wins
	// Lossy: acknowledged writes may be lost, as with durability "os" and power cuts: only what holds even then is
	// checked.
	Lossy bool `json:"lossy,omitempty"`
	// Wiped: members came and went. What was not acknowledged may be gone with a copy that moved or was lost, although
	// somebody had read it: see [History.Quiet].
	Wiped bool `json:"wiped,omitempty"`
	// Reaped: the run waited for tombstones to be reaped.
	Reaped bool `json:"reaped,omitempty"`
}

// Note is something that happened in a run and is not judged, such as a fault.
type Note struct {
	At   time.Duration `json:"at"`
	Text string        `json:"text"`
}

// Loss is of the disks of some nodes, at once.
type Loss struct {
	At    time.Duration `json:"at"`
	Nodes int           `json:"nodes"`
	// Owners is of how many of the lost a key was one's own, by KeyName. A key that is not named: of all.
	Owners map[string]int `json:"owners,omitempty"`
}

// of is how many of those that had to hold a write of a key were lost. A sloppy one may be with others than the owners.
func (l Loss) of(o *Operation) int {
	if n, ok := l.Owners[o.name()]; ok && o.Strict {
		return n
	}
	return l.Nodes
}

// Span is a time, both ends included.
type Span struct {
	From time.Duration `json:"from"`
	To   time.Duration `json:"to"`
}

// History is everything that a run shows to the outside. Record, Note and Breach are safe for concurrent use; the
// fields are for one goroutine, when the clients have stopped.
type History struct {
	Title      string
	Options    Options
	Operations []*Operation
	Notes      []Note
	Breaches   []Violation
	// Losses are disks that were lost for good. Of what was acknowledged, only what nobody else need have had may be gone.
	Losses []Loss
	// Quiet are times in which one layout was in force. What was read in one of them is with members who hand it on, so that
	// it does not vanish when others take their place, unless their disks are lost.
	Quiet []Span
	Final Final

	mu sync.Mutex
}

// Record adds an operation, which must not be changed afterwards.
func (h *History) Record(o *Operation) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.Operations = append(h.Operations, o)
}

// Note adds a note.
func (h *History) Note(at time.Duration, format string, args ...any) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.Notes = append(h.Notes, Note{at, fmt.Sprintf(format, args...)})
}

// Lose adds a loss.
func (h *History) Lose(l Loss) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.Losses = append(h.Losses, l)
}

// WasQuiet adds a time in which one layout was in force, or the end of the last one, which has gone on.
func (h *History) WasQuiet(s Span) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if n := len(h.Quiet); n > 0 && h.Quiet[n-1].From == s.From {
		h.Quiet = h.Quiet[:n-1]
	}
	h.Quiet = append(h.Quiet, s)
}

// Breach adds a promise that was seen to be broken at once.
func (h *History) Breach(key, text string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.Breaches = append(h.Breaches, Violation{Breach, key, text})
}

// formatVersion is that of a history's file.
const formatVersion = 1

// line is one line of a history's file: one of its fields.
type line struct {
	Version   int        `json:"history,omitempty"` // the first line: with Title and Options
	Title     string     `json:"title,omitempty"`
	Options   *Options   `json:"options,omitempty"`
	Operation *Operation `json:"operation,omitempty"`
	Note      *Note      `json:"note,omitempty"`
	Breach    *Violation `json:"breach,omitempty"`
	Loss      *Loss      `json:"loss,omitempty"`
	Quiet     *Span      `json:"quiet,omitempty"`
	Final     *Final     `json:"final,omitempty"` // the last line
}

// Write writes the history as JSON lines.
func (h *History) Write(w io.Writer) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	b := bufio.NewWriter(w)
	e := json.NewEncoder(b)
	lines := []line{{Version: formatVersion, Title: h.Title, Options: &h.Options}}
	for i := range h.Notes {
		lines = append(lines, line{Note: &h.Notes[i]})
	}
	for _, o := range h.Operations {
		lines = append(lines, line{Operation: o})
	}
	for i := range h.Breaches {
		lines = append(lines, line{Breach: &h.Breaches[i]})
	}
	for i := range h.Losses {
		lines = append(lines, line{Loss: &h.Losses[i]})
	}
	for i := range h.Quiet {
		lines = append(lines, line{Quiet: &h.Quiet[i]})
	}
	for _, l := range append(lines, line{Final: &h.Final}) {
		if err := e.Encode(l); err != nil {
			return fmt.Errorf("write a history: %w", err)
		}
	}
	return b.Flush()
}

// Read reads what Write has written. A file without its last line is refused: it does not tell what was left.
func Read(r io.Reader) (*History, error) {
	h := &History{}
	d := json.NewDecoder(bufio.NewReader(r))
	for n := 1; ; n++ {
		var l line
		if err := d.Decode(&l); err != nil {
			return nil, fmt.Errorf("read a history: line %d: %w", n, err)
		}
		if n == 1 && (l.Version != formatVersion || l.Options == nil) {
			return nil, fmt.Errorf("read a history: version %d, want %d", l.Version, formatVersion)
		}
		switch {
		case l.Options != nil:
			h.Title, h.Options = l.Title, *l.Options
		case l.Operation != nil:
			h.Operations = append(h.Operations, l.Operation)
		case l.Note != nil:
			h.Notes = append(h.Notes, *l.Note)
		case l.Breach != nil:
			h.Breaches = append(h.Breaches, *l.Breach)
		case l.Loss != nil:
			h.Losses = append(h.Losses, *l.Loss)
		case l.Quiet != nil:
			h.Quiet = append(h.Quiet, *l.Quiet)
		case l.Final != nil:
			h.Final = *l.Final
			return h, nil
		}
	}
}
