#!/bin/sh
touch /root/port
