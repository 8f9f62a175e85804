#!/bin/sh
# Does what the learner is asked to do, so that tests can see the check pass. It is never published.
exec curl --silent --show-error --fail --output /home/student/page.html http://target:8088/
