//! Kubernetes objects to the mesh view: conversion, index and controllers.

pub mod controller;
pub mod convert;
pub mod index;
pub mod offline;
pub mod shared_index;
