//! Kubernetes objects to the mesh view: conversion, index and controllers.

pub mod controller;
