#!/bin/sh
# Ends with 0 once the learner has saved the page.
exec grep --quiet 'You found me' /home/student/page.html
