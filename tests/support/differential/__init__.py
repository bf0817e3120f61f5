"""The same call over both edges of the gateway, and the answers as messages that can be compared.

Nothing here uses the gateway's own translation: what REST shows is read by protobuf's JSON parser.
"""
