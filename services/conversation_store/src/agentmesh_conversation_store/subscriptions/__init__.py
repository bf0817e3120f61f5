"""Subscriptions: the log once and in order, then live.

Each subscriber pulls: it holds a position in the log and a position in each message that is being
made, and takes what lies beyond them when it can send. What is shared lies in the conversation's
hub. So a slow subscriber costs no memory: what it has not taken yet, it reads from the log later,
and pieces of messages that are finished by then it never sees.
"""
