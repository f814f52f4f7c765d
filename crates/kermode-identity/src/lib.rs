//! SPIFFE identities: certificate authority, issuing and rotation, clock passed in.
