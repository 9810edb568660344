#!/bin/bash
# node.sh crash NODE   the node's slurmd, its slurmstepds and its job processes die at once (SIGKILL)
# node.sh lost NODE    only slurmd dies: the node's jobs go on, as on a node cut off from the network
# node.sh up NODE      slurmd starts again
set -u
DIR=${SLURM_TEST_DIR:-/tmp/slurm-test}; PATH=$PATH:/usr/sbin:/sbin; N=${2:?node}
export SLURM_CONF=$DIR/slurm.conf
with() { { grep -lzx "$1" /proc/[0-9]*/environ | cut -d/ -f3; } 2>/dev/null; }
case $1 in
  lost) kill -KILL "$(cat "$DIR/slurmd-$N.pid")";;
  crash)
    kill -KILL "$(cat "$DIR/slurmd-$N.pid")"
    jobs=$(comm -12 <(with "SLURMD_NODENAME=$N" | sort) <(with "SLURM_CONF=$SLURM_CONF" | sort))
    steps=$(for p in $jobs; do ps -o ppid= -p "$p"; done | sort -u | while read -r p; do grep -qz '^slurmstepd' "/proc/$p/cmdline" 2>/dev/null && echo "$p"; done)
    kill -KILL $steps $jobs 2>/dev/null;;
  up) rm -f "$DIR/spool/$N/$N"_*; slurmd -N "$N";;
  *) echo "usage: node.sh crash|lost|up NODE" >&2; exit 2;;
esac
