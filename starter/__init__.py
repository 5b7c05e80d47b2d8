"""The local processes of `parley up` and `parley demo`: PostgreSQL, Temporal, the simulator and a worker."""
