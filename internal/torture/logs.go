package torture

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"strings"
)

// Deaths returns the lines of a node's log that tell of a crash.
func Deaths(log string) (lines []string) {
	for line := range strings.Lines(log) {
		for _, word := range []string{"panic:", "fatal error:", "SIGBUS", "SIGSEGV", "DATA RACE", "a request handler panicked"} {
			if strings.Contains(line, word) {
				lines = append(lines, strings.TrimSpace(line))
			}
		}
	}
	return lines
}

// lastWords are the lines by which a node told why it ended.
func lastWords(log string) (lines []string) {
	for line := range strings.Lines(log) {
		if strings.HasPrefix(line, "dunlin: ") {
			lines = append(lines, strings.TrimSpace(line))
		}
	}
	return lines
}

// tell returns what is wrong in the log of a process that has ended: told says that it was told to end before it was
// killed, and may have said so.
func (m *member) tell(told bool) []string {
	f, err := os.Open(m.Log)
	if err != nil {
		return []string{err.Error()}
	}
	defer f.Close()
	var text bytes.Buffer
	if _, err = f.Seek(m.read, io.SeekStart); err == nil {
		_, err = io.Copy(&text, f)
	}
	if err != nil {
		return []string{fmt.Sprintf("the log of %s: %v", m.Name, err)}
	}
	m.read += int64(text.Len())
	lines := Deaths(text.String())
	if !told {
		lines = append(lines, lastWords(text.String())...)
	}
	for i := range lines {
		lines[i] = m.Name + " logged: " + lines[i]
	}
	return lines
}
