"""Who works on what: turns are pushed to runtimes as soon as there is work for them."""
