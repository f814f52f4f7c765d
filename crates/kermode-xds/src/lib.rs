//! Delta ADS: resource store, stream state machine, gRPC server and client.
