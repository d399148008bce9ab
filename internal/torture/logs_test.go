package torture

import (
	"os"
	"path/filepath"
	"slices"
	"testing"
)

// What a process logged is looked at once, and its last words count when nobody told it to stop.
func TestLogsTellOfCrashes(t *testing.T) {
	m := &member{}
	m.Name, m.Log = "n1", filepath.Join(t.TempDir(), "log")
	add := func(text string) {
		t.Helper()
		f, err := os.OpenFile(m.Log, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		if _, err := f.WriteString(text); err != nil {
			t.Fatal(err)
		}
	}
	for _, step := range []struct {
		text string
		told bool
		want []string
	}{
		{"all is well\nlevel=WARN msg=odd\n", false, nil},
		{"dunlin: no room\n", false, []string{"n1 logged: dunlin: no room"}},
		{"dunlin: stopped\n", true, nil},
		{"panic: oh\n\ngoroutine 1\n", true, []string{"n1 logged: panic: oh"}},
		{"", false, nil},
	} {
		add(step.text)
		if got := m.tell(step.told); !slices.Equal(got, step.want) {
			t.Errorf("%q, told %v: %q, want %q", step.text, step.told, got, step.want)
		}
	}
	m.Log += ".gone"
	if len(m.tell(true)) != 1 {
		t.Error("a log that is gone was not noticed")
	}
}

func TestOptionsThatCannotBe(t *testing.T) {
	good := Options{Nodes: 3, Clients: 1, Kills: 1, Durability: "os", Network: NetworkNo}
	if err := good.Validate(); err != nil {
		t.Error(err)
	}
	for option, change := range map[string]func(*Options){
		"nodes":      func(o *Options) { o.Nodes = 2 },
		"clients":    func(o *Options) { o.Clients = 0 },
		"kills":      func(o *Options) { o.Kills = -1 },
		"time":       func(o *Options) { o.Kills = 0 },
		"durability": func(o *Options) { o.Durability = "" },
		"network":    func(o *Options) { o.Network = "maybe" },
	} {
		o := good
		change(&o)
		if bad, ok := o.Validate().(*Invalid); !ok || bad.Option != option {
			t.Errorf("%s: %v", option, o.Validate())
		}
	}
}
