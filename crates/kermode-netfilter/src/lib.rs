//! Transparent proxying: settings to rules to text, and applying them.
