//! For tests only: scripted peers, sample services, fault-injecting upstreams.
