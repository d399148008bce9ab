package node

import (
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/dunlindb/dunlin/internal/fleet"
)

func TestProfilesAreServedOnlyWhereAskedFor(t *testing.T) {
	c := settings(t, 1)[0]
	ports, err := fleet.FreePorts("127.0.0.1", 1)
	if err != nil {
		t.Fatal(err)
	}
	c.Seeds, c.Pprof = nil, fmt.Sprintf("127.0.0.1:%d", ports[0])
	start(t, c)
	body := func(addr string) (int, string) {
		res, err := http.Get("http://" + addr + "/debug/pprof/goroutine?debug=1")
		if err != nil {
			t.Fatal(err)
		}
		defer res.Body.Close()
		b, err := io.ReadAll(res.Body)
		if err != nil {
			t.Fatal(err)
		}
		return res.StatusCode, string(b)
	}
	if code, text := body(c.Pprof); code != http.StatusOK || !strings.Contains(text, "goroutine profile") {
		t.Errorf("on its own address: %d %.100s", code, text)
	}
	if code, _ := body(c.HTTP); code != http.StatusNotFound {
		t.Errorf("where clients are answered: %d", code)
	}
}
