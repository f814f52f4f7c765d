//! Builds the mesh view from Kubernetes objects: conversion, the index, and controllers with Kubernetes IO.

pub mod controller;
pub mod convert;
pub mod index;
pub mod offline;
pub mod shared_index;
