package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// docker runs a command in the repository's root and returns its output.
func docker(t *testing.T, limit time.Duration, args ...string) (string, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	cmd := exec.CommandContext(ctx, args[0], args[1:]...)
	root, err := filepath.Abs("../..")
	if err != nil {
		t.Fatal(err)
	}
	cmd.Dir = root
	out, err := cmd.CombinedOutput()
	if err != nil {
		return string(out), fmt.Errorf("%s: %w\n%s", strings.Join(args, " "), err, out[max(0, len(out)-4000):])
	}
	return string(out), nil
}

// composers are the programs that must accept the compose files: Compose v2 and docker-compose 1.29.
var composers = []struct {
	name, version string
	command       []string
	zones         func(t *testing.T, composer []string) // with docker-compose.zones.yml
}{
	{"v2", "2", []string{"docker", "compose"}, zonesStory},
	{"1.29", "1.29", []string{"docker-compose"}, joinerStory},
}

func dockerWorks() error {
	if err := installed("docker"); err != nil {
		return err
	}
	if err := exec.Command("docker", "info").Run(); err != nil {
		return fmt.Errorf("the engine does not answer: %w", err)
	}
	return nil
}

// composeIs returns why the command is not the composer of that version: the docker-compose of today's distributions
// is often Compose v2 under the old name.
func composeIs(command []string, version string) error {
	if err := installed(command[0]); err != nil {
		return err
	}
	name := strings.Join(command, " ")
	out, err := exec.Command(command[0], append(command[1:], "version", "--short")...).Output()
	if err != nil {
		return fmt.Errorf("%s is not installed: %w", name, err)
	}
	if got := strings.TrimPrefix(strings.TrimSpace(string(out)), "v"); !strings.HasPrefix(got, version+".") {
		return fmt.Errorf("%s is %s, not %s", name, got, version)
	}
	return nil
}

// TestCompose runs the committed Dockerfile and compose file as a user would: up --build, healthy by the binary's own
// check, data through every node, one container killed and back, down and up again with new addresses and the same
// data. It uses the file's ports, 8001 to 8003. Then docker-compose.zones.yml.
func TestCompose(t *testing.T) {
	heavy(t)
	need(t, "docker", dockerWorks())
	if out, err := docker(t, 5*time.Minute, ".ci/golang-image"); err != nil {
		need(t, "docker", fmt.Errorf("no base image: %w\n%s", err, out))
	}
	for _, c := range composers {
		t.Run(c.name, func(t *testing.T) {
			need(t, "docker", composeIs(c.command, c.version))
			composeStory(t, c.command)
		})
		t.Run(c.name+" zones", func(t *testing.T) {
			need(t, "docker", composeIs(c.command, c.version))
			c.zones(t, c.command)
		})
	}
}

// compose is one compose file as a project of its own, for one of the composers.
type compose struct {
	t       *testing.T
	command []string
}

// newCompose checks that the file is accepted, and takes everything of it down at the end.
func newCompose(t *testing.T, composer []string, file string) *compose {
	t.Helper()
	c := &compose{t, append(append([]string{}, composer...), "-f", file, "-p", fmt.Sprintf("dunline2e%d", os.Getpid()))}
	t.Cleanup(func() {
		if t.Failed() {
			out, _ := docker(t, time.Minute, append(c.command, "logs", "--no-color")...)
			t.Logf("%s", out[max(0, len(out)-8000):])
		}
		_, _ = docker(t, 3*time.Minute, append(c.command, "down", "-v")...)
	})
	if out := c.do(time.Minute, "config", "-q"); out != "" {
		t.Errorf("the compose file is not accepted silently: %s", out)
	}
	return c
}

func (c *compose) do(limit time.Duration, args ...string) string {
	c.t.Helper()
	out, err := docker(c.t, limit, append(c.command[:len(c.command):len(c.command)], args...)...)
	if err != nil {
		c.t.Fatal(err)
	}
	return out
}

// healthy waits until the containers' own health checks pass.
func (c *compose) healthy(services ...string) {
	c.t.Helper()
	ids := strings.Fields(c.do(time.Minute, append([]string{"ps", "-q"}, services...)...))
	if len(ids) != len(services) {
		c.t.Fatalf("containers of %v: %v", services, ids)
	}
	until(c.t, 2*time.Minute, "healthy", func() error {
		out, err := docker(c.t, time.Minute, append([]string{"docker", "inspect", "-f", "{{.Name}}={{.State.Health.Status}}"}, ids...)...)
		if err != nil || strings.Count(out, "=healthy\n") != len(ids) {
			return fmt.Errorf("%v: %s %v", services, out, err)
		}
		return nil
	})
}

func composeStory(t *testing.T, composer []string) {
	c := newCompose(t, composer, "docker-compose.yml")
	do, nodes := c.do, []string{"n1", "n2", "n3"}
	// As on a machine that never built it. An error says that it is not there.
	_, _ = docker(t, time.Minute, "docker", "image", "rm", "-f", "dunlin:latest")
	start := time.Now()
	do(15*time.Minute, "up", "--build", "-d")
	t.Logf("up --build took %.0f s", time.Since(start).Seconds())
	c.healthy(nodes...)
	imageIsSmall(t)

	url := func(i int, path string) string { return fmt.Sprintf("http://127.0.0.1:%d%s", 8001+i%3, path) }
	for i := range 30 {
		expect(t, 204, "PUT", url(i, fmt.Sprintf("/kv/b/k%d?w=3", i)), fmt.Sprint("v", i))
	}
	check := func() {
		t.Helper()
		for i := range 30 {
			if got := expect(t, 200, "GET", url(i+1, fmt.Sprintf("/kv/b/k%d?r=2", i)), ""); got != fmt.Sprint("v", i) {
				t.Fatalf("k%d: %q", i, got)
			}
		}
	}
	check()
	id := strings.TrimSpace(do(time.Minute, "ps", "-q", "n3"))
	if out, err := docker(t, time.Minute, "docker", "inspect", "-f", "{{.Config.User}} {{.HostConfig.ReadonlyRootfs}}", id); err != nil || strings.TrimSpace(out) != "65532:65532 true" {
		t.Errorf("user and read-only root: %q, %v", out, err)
	}
	do(time.Minute, "kill", "-s", "SIGKILL", "n3")
	expect(t, 204, "PUT", url(0, "/kv/b/while-down?w=2"), "x")
	before := do(time.Minute, "ps", "-q", "n1") + do(time.Minute, "ps", "-q", "n2")
	do(time.Minute, "up", "-d")
	if after := do(time.Minute, "ps", "-q", "n1") + do(time.Minute, "ps", "-q", "n2"); after != before {
		t.Errorf("up for a killed container replaced the others: %s, were %s", after, before)
	}
	c.healthy(nodes...)
	check()

	do(2*time.Minute, "down")
	do(2*time.Minute, "up", "-d")
	c.healthy(nodes...)
	check()
}

func imageIsSmall(t *testing.T) {
	t.Helper()
	out, err := docker(t, time.Minute, "docker", "image", "inspect", "dunlin:latest")
	if err != nil {
		t.Fatal(err)
	}
	var images []struct{ Size int64 }
	if err := json.Unmarshal([]byte(out), &images); err != nil || len(images) != 1 {
		t.Fatalf("%v: %s", err, out)
	}
	if mb := images[0].Size / 1e6; mb >= 40 {
		t.Errorf("the image has %d MB, must stay below 40", mb)
	}
}
