//! Choosing, applying and checking ContainerPatches.
