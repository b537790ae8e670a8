#!/usr/bin/env bash
# All tests: those in the Windows lab beside all others, as both wait much of their time and share no port. Ends with two closing lines.
set -u
cd "$(dirname "$0")/.."
mkdir -p .cache
.venv/bin/pytest -m lab >.cache/lab-tests.txt 2>&1 &
lab=$!
trap 'kill $lab 2>/dev/null' EXIT
.venv/bin/pytest -m "not lab"
others=$?
echo "The tests in the Windows lab:"
wait $lab
lab_status=$?
cat .cache/lab-tests.txt
exit $((others ? others : lab_status))
