"""Files of conversations, kept in the store by the hash of their content.

A generation is a manifest that names every file. `manifest` is its form, `capture` makes one of an
open workspace, `laying` makes a workspace what a manifest says, `rest` decides when. Small files
lie beside the manifest that they came with, so that a call that changed a few costs one upload;
large ones are blobs of their own. What has not changed is referred to where it lies.
"""
