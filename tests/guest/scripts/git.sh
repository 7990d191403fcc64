#!/bin/sh
. "$(dirname "$0")/../scripts-common.sh"
need git
export GIT_CONFIG_NOSYSTEM=1 GIT_AUTHOR_NAME=a GIT_AUTHOR_EMAIL=a@b GIT_COMMITTER_NAME=a GIT_COMMITTER_EMAIL=a@b GIT_AUTHOR_DATE='1000000000 +0000' GIT_COMMITTER_DATE='1000000000 +0000' HOME=$work GIT_PAGER=cat
git init -q -b main r && cd r || exit 1
for i in $(seq 30); do mkdir -p d$((i % 5)); seq $i > d$((i % 5))/f$i; git add -A; git commit -q -m "commit $i"; done
git log --oneline | head -3; git rev-parse HEAD; git count-objects | cut -d' ' -f1
git checkout -q -b topic HEAD~10 && echo topic > topic && git add topic && git commit -q -m topic && git checkout -q main && git merge -q --no-edit topic && git log --oneline | head -2; git rev-parse HEAD
git diff --stat HEAD~5 | tail -1; git gc -q && git fsck 2>&1 | head -3; git count-objects -v | grep -E 'in-pack|packs'
cd .. && git clone -q r c 2>&1 && cd c && git rev-parse HEAD && git status --porcelain && echo clean; echo change >> d1/f1; git status --porcelain; git stash -q && git status --porcelain; git stash pop -q && git diff | tail -2
git clone -q --no-local --depth 3 "file://$work/r" ../shallow 2>&1; git -C ../shallow log --oneline | wc -l; git archive HEAD d1 | tar -tf - | head -3; git grep -c 7 -- d2 | head -2; git blame -s d1/f1 | head -1; git bundle create -q b.bundle main 2>/dev/null; git bundle verify -q b.bundle && echo bundle
git worktree add -q ../wt topic && ls ../wt | head -3; git rebase -q topic~1 2>&1 | tail -1; git reflog | wc -l
