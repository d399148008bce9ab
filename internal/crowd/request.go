package crowd

import (
	"encoding/json"
	"errors"
	"io"
	"net"
	"net/http"
	"strings"

	"github.com/dunlindb/dunlin/internal/referee"
)

// request is a request as it is sent, again and again if need be.
type request struct {
	method, path, body, token, idempotency string
}

type answer struct {
	status int
	header http.Header
	body   string
}

// exchange does a request, once.
func exchange(client *http.Client, q request) (a answer, err error) {
	req, err := http.NewRequest(q.method, q.path, strings.NewReader(q.body))
	if err != nil {
		return a, err
	}
	req.GetBody = nil // else net/http repeats some requests by itself, and reports only how the repetition failed
	req.Header.Set("Accept", "application/json")
	if q.token != "" {
		req.Header.Set("Dunlin-Context", q.token)
	}
	if q.idempotency != "" {
		req.Header.Set("Idempotency-Key", q.idempotency)
	}
	resp, err := client.Do(req)
	if err != nil {
		return a, err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	return answer{resp.StatusCode, resp.Header, string(b)}, err
}

// outcome is what a client may conclude from the answer to a write.
func (a answer) outcome(err error) referee.Outcome {
	if err != nil {
		if dial := (*net.OpError)(nil); errors.As(err, &dial) && dial.Op == "dial" {
			return referee.None
		}
		return referee.Unknown
	}
	if a.status < 300 {
		return referee.Acked
	}
	var p struct{ Outcome string }
	if json.Unmarshal([]byte(a.body), &p) == nil && p.Outcome == "none" {
		return referee.None
	}
	return referee.Unknown
}

// live returns the names of the values in an answer to a read, and their dots.
func (a answer) live() (names, dots []string, err error) {
	switch a.status {
	case http.StatusOK:
		return []string{referee.Name(a.body)}, []string{a.header.Get("Dunlin-Dot")}, nil
	case http.StatusMultipleChoices:
		var doc struct {
			Siblings []struct {
				Dot, Value string
				Deleted    bool
			}
		}
		if err := json.Unmarshal([]byte(a.body), &doc); err != nil {
			return nil, nil, err
		}
		for _, s := range doc.Siblings {
			if !s.Deleted {
				names, dots = append(names, referee.Name(s.Value)), append(dots, s.Dot)
			}
		}
	}
	return names, dots, nil
}
