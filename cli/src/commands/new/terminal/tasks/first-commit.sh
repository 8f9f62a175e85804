#!/bin/sh
# Ends with 0 once the learner's repository has a commit.
exec git -c safe.directory='*' -C /home/student/work rev-parse --quiet --verify HEAD
