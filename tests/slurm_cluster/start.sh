#!/bin/bash
# A real Slurm cluster on this one machine, loopback only, everything under one directory.
# Needs: root, and  apt-get install --no-install-recommends slurmctld slurmd slurm-client munge
#        (with accounting, i.e. a working sacct:  + slurmdbd mariadb-server-core)
# Environment: SLURM_TEST_DIR (/tmp/slurm-test)  SLURM_TEST_NODES (4)  SLURM_TEST_CPUS (4, a node)
#              SLURM_TEST_MEM (4000 MB, a node)   SLURM_TEST_PORT (16800) SLURM_TEST_ACCT (1: slurmdbd+mariadb)
# Exit: 0 up; 77 cannot be run here (the reason is on stderr); 1 failed to start (logs named on stderr).
set -u
DIR=${SLURM_TEST_DIR:-/tmp/slurm-test} NODES=${SLURM_TEST_NODES:-4} CPUS=${SLURM_TEST_CPUS:-4}
MEM=${SLURM_TEST_MEM:-4000} PORT=${SLURM_TEST_PORT:-16800} ACCT=${SLURM_TEST_ACCT:-1}
PATH=$PATH:/usr/sbin:/sbin
skip() { echo "slurm-test: cannot run here: $*" >&2; exit 77; }
fail() { echo "slurm-test: $*" >&2; tail -n 5 "$DIR"/log/*.log >&2 2>/dev/null; exit 1; }
now() { date +%s%3N; }
# alive PIDFILE: running and not a zombie (pid 1 of this sandbox reaps late)
alive() { local p; p=$(cat "$1" 2>/dev/null) && [ -n "$p" ] && grep -q '^State:[[:space:]]*[^ZX[:space:]]' "/proc/$p/status" 2>/dev/null; }
# wait_for SECONDS COMMAND...
wait_for() { local end=$(( $(now) + $1 * 1000 )); shift; until "$@" >/dev/null 2>&1; do [ "$(now)" -lt $end ] || return 1; sleep 0.05; done; }

[ "$(id -u)" = 0 ] || skip "not root"
need="munged slurmctld slurmd srun sbatch sinfo"; [ "$ACCT" = 1 ] && need="$need slurmdbd mariadbd"
for c in $need; do
  command -v $c >/dev/null || skip "no $c: apt-get install --no-install-recommends slurmctld slurmd slurm-client munge$([ "$ACCT" = 1 ] && echo ' slurmdbd mariadb-server-core')"
done
for f in "$DIR"/*.pid; do alive "$f" && { echo "slurm-test: already running ($f); run stop.sh" >&2; exit 1; }; done

HOST=$(uname -n | cut -d. -f1) T0=$(now)
# loopback only: needs a host name that /etc/hosts gives a loopback address
case $(getent ahostsv4 "$HOST" | head -n 1) in
  127.*) ;;
  *) skip "host name $HOST is not a loopback address: put '127.0.0.1 $HOST' into /etc/hosts";;
esac
rm -rf "$DIR"; mkdir -p "$DIR"/{munge,state,log,spool,db} && for i in $(seq "$NODES"); do mkdir "$DIR/spool/n$i"; done && chmod 755 "$DIR" "$DIR/munge" || fail "cannot make $DIR"
[ "${#DIR}" -le 80 ] || skip "SLURM_TEST_DIR is too long for unix sockets"

# munge -----------------------------------------------------------------------------------
(umask 077; head -c 1024 /dev/urandom > "$DIR/munge/munge.key")
M="--socket=$DIR/munge/munge.sock"
munged --force --key-file="$DIR/munge/munge.key" $M --pid-file="$DIR/munged.pid" \
  --log-file="$DIR/log/munged.log" --seed-file="$DIR/munge/munged.seed" 2>>"$DIR/log/munged.log" || fail "munged did not start"

# configuration ---------------------------------------------------------------------------
cat > "$DIR/slurm.conf" <<EOF
ClusterName=local
SlurmctldHost=$HOST(127.0.0.1)
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
CredType=cred/munge
AuthInfo=socket=$DIR/munge/munge.sock
SlurmctldPort=$((PORT + 17))
CommunicationParameters=NoInAddrAny,NoCtldInAddrAny
StateSaveLocation=$DIR/state
SlurmdSpoolDir=$DIR/spool/%n
SlurmctldPidFile=$DIR/slurmctld.pid
SlurmdPidFile=$DIR/slurmd-%n.pid
SlurmctldLogFile=$DIR/log/slurmctld.log
SlurmdLogFile=$DIR/log/slurmd-%n.log
SlurmctldDebug=info
SlurmdDebug=info
MpiDefault=none
MailProg=/bin/true
SwitchType=switch/none
# more CPUs than the machine has: without this each node goes to state INVAL
SlurmdParameters=config_overrides
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU_Memory
SchedulerType=sched/backfill
SchedulerParameters=batch_sched_delay=0,sched_interval=2,sched_min_interval=0,bf_interval=2
DependencyParameters=kill_invalid_depend
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
SlurmctldParameters=preempt_send_user_signal
# times made short, for tests
SlurmctldTimeout=10
SlurmdTimeout=10
MessageTimeout=10
KillWait=5
InactiveLimit=0
DefMemPerCPU=$((MEM / CPUS))
MinJobAge=600
ReturnToService=2
JobRequeue=1
EnforcePartLimits=ALL
EOF
if [ "$ACCT" = 1 ]; then cat >> "$DIR/slurm.conf" <<EOF
AccountingStorageType=accounting_storage/slurmdbd
AccountingStorageHost=127.0.0.1
AccountingStoragePort=$((PORT + 19))
# not a password: with auth/munge this is munge's socket (AuthInfo is not used for slurmdbd)
AccountingStoragePass=$DIR/munge/munge.sock
EOF
else echo AccountingStorageType=accounting_storage/none >> "$DIR/slurm.conf"; fi
cat >> "$DIR/slurm.conf" <<EOF
NodeName=n[1-$NODES] NodeHostname=$HOST NodeAddr=127.0.0.1 Port=[$((PORT + 21))-$((PORT + 20 + NODES))] CPUs=$CPUS RealMemory=$MEM State=UNKNOWN
PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE PriorityTier=1 GraceTime=20 State=UP
PartitionName=high Nodes=ALL MaxTime=INFINITE PriorityTier=10 PreemptMode=OFF State=UP
PartitionName=short Nodes=n[1-$(( NODES > 1 ? 2 : 1 ))] MaxTime=5 PriorityTier=1 PreemptMode=OFF State=UP
EOF
echo "export SLURM_CONF=$DIR/slurm.conf" > "$DIR/env.sh"
export SLURM_CONF=$DIR/slurm.conf
cd "$DIR" || exit 1

# accounting ------------------------------------------------------------------------------
if [ "$ACCT" = 1 ]; then
  cat > "$DIR/my.cnf" <<EOF
[mysqld]
user=root
datadir=$DIR/db
tmpdir=$DIR/db
socket=$DIR/mysqld.sock
pid-file=$DIR/mysqld.pid
bind-address=127.0.0.1
port=$((PORT + 6))
skip-name-resolve
skip-log-bin
performance_schema=OFF
innodb_buffer_pool_size=32M
innodb_log_file_size=16M
innodb_flush_log_at_trx_commit=0
innodb_doublewrite=0
innodb_flush_method=nosync
innodb_lock_wait_timeout=900
key_buffer_size=1M
aria_pagecache_buffer_size=1M
max_connections=20
EOF
  PW=$(head -c 12 /dev/urandom | od -An -tx1 | tr -d ' \n')
  (umask 077; cat > "$DIR/init.sql" <<EOF
CREATE DATABASE IF NOT EXISTS slurm_acct_db;
CREATE USER IF NOT EXISTS 'slurm'@'127.0.0.1' IDENTIFIED BY '$PW';
GRANT ALL ON slurm_acct_db.* TO 'slurm'@'127.0.0.1';
EOF
  cat > "$DIR/slurmdbd.conf" <<EOF
AuthType=auth/munge
AuthInfo=socket=$DIR/munge/munge.sock
DbdHost=localhost
DbdAddr=127.0.0.1
DbdPort=$((PORT + 19))
CommunicationParameters=NoInAddrAny
SlurmUser=root
PidFile=$DIR/slurmdbd.pid
LogFile=$DIR/log/slurmdbd.log
DebugLevel=info
StorageType=accounting_storage/mysql
StorageHost=127.0.0.1
StoragePort=$((PORT + 6))
StorageUser=slurm
StoragePass=$PW
StorageLoc=slurm_acct_db
EOF
  )
  # what mariadb-install-db does, without it (it wants my_print_defaults, of another package)
  { printf 'create database mysql;\nuse mysql;\nSET @auth_root_socket=NULL;\nSET @skip_auth_anonymous=1;\n'
    cat /usr/share/mysql/mysql_system_tables.sql /usr/share/mysql/mysql_system_tables_data.sql
  } | mariadbd --defaults-file="$DIR/my.cnf" --bootstrap --enforce-storage-engine= >> "$DIR/log/mysqld-bootstrap.log" 2>&1 || fail "mariadb bootstrap failed"
  setsid mariadbd --defaults-file="$DIR/my.cnf" --init-file="$DIR/init.sql" --log-error="$DIR/log/mysqld.log" </dev/null >/dev/null 2>&1 &
  wait_for 30 grep -q 'ready for connections' "$DIR/log/mysqld.log" || fail "mariadbd did not start"
  slurmdbd || fail "slurmdbd did not start"
  wait_for 30 grep -q 'slurmdbd version .* started' "$DIR/log/slurmdbd.log" || fail "slurmdbd did not start"
fi

# slurm -----------------------------------------------------------------------------------
slurmctld || fail "slurmctld did not start"
for i in $(seq "$NODES"); do slurmd -N "n$i" || fail "slurmd n$i did not start"; done
ready() { [ "$(timeout 5 sinfo -h -p main -t idle -o %D)" = "$NODES" ]; }
wait_for 30 ready || fail "nodes are not idle: $(timeout 5 sinfo -h -N -o '%N %T %E')"
[ "$ACCT" != 1 ] || wait_for 30 timeout 5 sacct -n || fail "sacct does not work"
# srun exits 0 when the launch itself failed (a plugin that does not load), so look at what it printed
[ "$(timeout 20 srun -N "$NODES" -t 1 echo ok 2>>"$DIR/log/srun.log" | grep -c '^ok$')" = "$NODES" ] || fail "srun does not work: $(tail -n 3 "$DIR/log/srun.log")"
echo "slurm-test: up in $(( $(now) - T0 )) ms: $NODES nodes of $CPUS CPUs; . $DIR/env.sh"
