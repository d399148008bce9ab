package coordinator

import (
	"testing"
	"testing/synctest"
	"time"
)

// With w=1 a stand-in may be the one that acknowledges, before any primary has committed; pw=1 waits for one.
func TestAStandInMayAcknowledgeBeforeAnyPrimary(t *testing.T) {
	for pw, want := range []string{"hinted", "fsynced"} {
		synctest.Test(t, func(t *testing.T) {
			w := newWorld(t, 5)
			defer w.close()
			own, _ := w.primaries("k")
			w.setDown(own[2], true)
			own[0].commit = 50 * time.Millisecond
			w.setFault(func(_, _ int, endpoint string) *fault {
				if endpoint == EndpointMerge {
					return &fault{delay: 50 * time.Millisecond}
				}
				return nil
			})
			began := time.Now()
			res, err := w.put(own[0], PutRequest{Key: "k", Write: value("v"), W: 1, PW: pw, Sloppy: true})
			if err != nil {
				t.Fatal(err)
			}
			acked := map[string]bool{}
			for _, r := range res.Replicas {
				acked[r.Outcome] = true
			}
			if !acked[want] || pw == 0 && acked["fsynced"] || (time.Since(began) >= own[0].commit) != (pw == 1) {
				t.Errorf("pw=%d after %v: %+v", pw, time.Since(began), res.Replicas)
			}
		})
	}
}
