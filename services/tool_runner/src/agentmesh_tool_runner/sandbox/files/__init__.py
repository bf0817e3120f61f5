"""Operations on the files of a workspace, safe against whatever untrusted code has laid there.

Each blocks, takes a descriptor of the workspace's root directory first and plain values after it,
and knows the standard library only: a backend calls it (see `reach`) in a worker thread, or
wherever its files are. Those of `writing`, `drafts` and `organising` that change something take
`FileRules` second. Paths come in and go out as `beneath.native` and `beneath.shown` have them.
"""
