#!/bin/bash
# Stops what start.sh started, and only that. SLURM_TEST_DIR as there.
# --fast: SIGKILL to the daemons (state need not be kept); --purge: removes the directory too.
set -u
DIR=${SLURM_TEST_DIR:-/tmp/slurm-test}; PATH=$PATH:/usr/sbin:/sbin
[ -f "$DIR/slurm.conf" ] || { echo "slurm-test: nothing in $DIR"; exit 0; }
export SLURM_CONF=$DIR/slurm.conf
now() { date +%s%3N; }
T0=$(now) FAST= PURGE=
for a; do case $a in --fast) FAST=1;; --purge) PURGE=1;; *) echo "usage: stop.sh [--fast] [--purge]" >&2; exit 2;; esac; done
SIG=${FAST:+KILL}; SIG=${SIG:-TERM}
alive() { grep -q '^State:[[:space:]]*[^ZX[:space:]]' "/proc/$1/status" 2>/dev/null; }
pid() { cat "$DIR/$1.pid" 2>/dev/null; }
end() {  # end SECONDS PID...: TERM, wait, KILL
  local t=$(( $(now) + $1 * 1000 )) p; shift
  for p; do kill -"$SIG" "$p" 2>/dev/null; done
  for p; do while alive "$p"; do [ "$(now)" -lt $t ] || { kill -KILL "$p" 2>/dev/null; break; }; sleep 0.05; done; done
}
mine() {  # left over of jobs: slurmstepd, and what has a job's environment, under our slurm.conf
  local p; { grep -lzx "SLURM_CONF=$DIR/slurm.conf" /proc/[0-9]*/environ | cut -d/ -f3 | while read -r p; do
    [ "$p" != $$ ] && { grep -qz '^slurmstepd' "/proc/$p/cmdline" || grep -qzE '^(SLURM_JOB_ID|SLURMD_NODENAME)=' "/proc/$p/environ"; } && echo "$p"; done; } 2>/dev/null; }
c=$(pid slurmctld)
if [ -n "$c" ] && alive "$c"; then
  timeout 5 scontrol update partitionname=main,high,short state=down >/dev/null 2>&1
  ids=$(timeout 5 squeue -h -o %A | sort -u)
  [ -z "$ids" ] || timeout 10 scancel --signal=KILL --full $ids >/dev/null 2>&1
  [ -z "$ids" ] || timeout 10 scancel $ids >/dev/null 2>&1
  for _ in $(seq 100); do [ -z "$(timeout 5 squeue -h -o %A)" ] && break; sleep 0.1; done
fi
d=; for f in "$DIR"/slurmd-*.pid; do [ -f "$f" ] && d="$d $(cat "$f")"; done
end 10 ${c:-} $d
left=$(mine); [ -z "$left" ] || { echo "slurm-test: ending left-over job processes: $(echo $left)"; end 3 $left; }
end 10 $(pid slurmdbd)
end 15 $(pid mysqld)
end 5 $(pid munged)
[ -n "$PURGE" ] && rm -rf "$DIR"
echo "slurm-test: stopped in $(( $(now) - T0 )) ms"
