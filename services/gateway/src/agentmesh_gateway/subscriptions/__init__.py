"""Subscriptions: one stream from the store per conversation, fanned out to whoever watches it.

A subscriber first catches up on a stream of its own, which passes through undecoded. Then it joins
the conversation's hub, whose one stream from the store serves everybody at the live end. Each
subscriber pulls: it holds a position in the log and one in each message that is being made, and
takes what lies beyond them when it can send. So a slow reader costs no memory: pieces of finished
messages it never sees, and when the hub no longer has what comes next for it, it catches up again.
"""
