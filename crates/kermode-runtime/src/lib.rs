//! What every binary needs: configuration, logging, metrics, readiness, drain, TLS.
