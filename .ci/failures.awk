# Of the output of "go test -v": the failing tests, what they said themselves, and panics. What passing tests said,
# and long texts such as the log of a node, are left out. A test's lines come before its verdict, and those of
# parallel tests are mixed; "=== RUN", "=== CONT" and "=== NAME" tell whose they are.
function clip(s) { return length(s) > 400 ? substr(s, 1, 400) " ..." : s }
function keep(s) {
  if (++more > 12) { if (more == 13) said[test] = said[test] "        ...\n"; return }
  said[test] = said[test] clip(s) "\n"
}
/^=== (RUN|CONT|NAME|PAUSE) / { test = $3; more = 99; next }
/^ *--- FAIL: / { failed[++n] = $3; verdict[$3] = $0; more = 99; next }
/^ *--- (PASS|SKIP): / { more = 99; next }
/^(panic|fatal error|WARNING: DATA RACE|runtime: |# )/ { trace = 15 }
trace > 0 { trace--; crash = crash clip($0) "\n"; if (/^(FAIL|ok)\t/) trace = 0; next }
/^(FAIL|---|ok  )/ { if (/^FAIL\t/) crash = crash clip($0) "\n"; more = 99; next }
/^ +[A-Za-z0-9_]+_test\.go:[0-9]+:/ { more = 0; keep($0); next }
/^        / { if (more < 99) keep($0); next }
{ more = 99 }
END {
  for (i = 1; i <= n; i++) printf "%s\n%s", clip(verdict[failed[i]]), said[failed[i]]
  printf "%s", crash
}
