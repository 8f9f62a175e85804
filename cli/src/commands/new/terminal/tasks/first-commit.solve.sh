#!/bin/sh
# Does what the learner is asked to do, so that tests can see the check pass. It is never published.
set -e
mkdir -p /home/student/work
cd /home/student/work
git init --quiet
echo hello > hello.txt
git -c safe.directory='*' add hello.txt
git -c safe.directory='*' -c user.name=student -c user.email=student@example.com commit --quiet --message hello
chown -R student: /home/student/work
