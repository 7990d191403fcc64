#!/bin/sh
. "$(dirname "$0")/../scripts-common.sh"
need redis-server redis-cli redis-benchmark
start() { redis-server --port 0 --unixsocket "$work/s" --dir "$work" --daemonize yes --logfile log --pidfile pid --save '' --appendonly "$1" --appendfsync always >/dev/null; until redis-cli -s s ping >/dev/null 2>&1; do :; done; }
cli() { redis-cli -s s "$@"; }
start yes
cli ping; cli set a 1; cli incrby a 41; cli rpush l x y z; cli lrange l 0 -1; cli hset h f v g w; cli hgetall h; cli zadd z 1 one 2 two; cli zrange z 0 -1 withscores
cli eval 'local s=0 for i=1,1000 do redis.call("set","k"..i,i) s=s+i end return s' 0; cli dbsize
redis-benchmark -s s -q -n 2000 -c 20 -t set,get,incr,lpush --csv | cut -d, -f1
cli set t v px 50; until [ "$(cli exists t)" = 0 ]; do :; done; echo expired
cli bgsave >/dev/null; until cli info persistence | grep -q 'rdb_bgsave_in_progress:0'; do :; done; cli info persistence | tr -d '\r' | grep -E 'rdb_last_bgsave_status'
cli bgrewriteaof >/dev/null; until cli info persistence | grep -q 'aof_rewrite_in_progress:0'; do :; done; cli info persistence | tr -d '\r' | grep -E 'aof_last_bgrewrite_status'
n=$(cli dbsize); kill -9 "$(cat pid)"; while kill -0 "$(cat pid)" 2>/dev/null; do :; done; rm -f s
start yes; [ "$(cli dbsize)" = "$n" ] && echo 'all keys are back'; cli get a
(cli --csv subscribe c & echo $! >sub; wait) >got & until cli publish c hi | grep -q 1; do :; done; until grep -q hi got; do :; done; kill "$(cat sub)"; grep hi got | head -1
(echo multi; echo 'incr a'; echo 'incr a'; echo exec) | cli; cli shutdown nosave 2>/dev/null; wait; ls appendonlydir 2>/dev/null | wc -l
