#!/bin/sh
# Says the commit that the tree FOLDER is of, with -dirty where a file of it has changed. Fails if FOLDER is no tree of
# git's: what was unpacked inside of another project's tree is none of that project's commits.
# usage: commit.sh FOLDER
set -eu
# A hook of git's, or 'git rebase --exec', says where its tree is: that need not be this one.
unset GIT_DIR GIT_WORK_TREE GIT_INDEX_FILE GIT_PREFIX
cd "$1"
[ -z "$(git rev-parse --show-prefix)" ]
commit=$(git rev-parse --verify --short=12 HEAD)
changed=$(git status --porcelain --untracked-files=no)
echo "$commit${changed:+-dirty}"
