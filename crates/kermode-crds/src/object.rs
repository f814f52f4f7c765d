//! Macro that implements [`kube::Resource`] for the custom resources.
//!
//! Kuma's resources have a field `mesh` beside `metadata` and `spec`, which the derive macro of `kube` does not
//! support.

/// Implements [`kube::Resource`] and `type_meta` for a custom resource.
macro_rules! custom_resource {
    ($type:ident, $plural:literal, $scope:ty) => {
        impl kube::Resource for $type {
            type DynamicType = ();
            type Scope = $scope;

            fn kind((): &()) -> std::borrow::Cow<'_, str> {
                stringify!($type).into()
            }

            fn group((): &()) -> std::borrow::Cow<'_, str> {
                crate::GROUP.into()
            }

            fn version((): &()) -> std::borrow::Cow<'_, str> {
                crate::VERSION.into()
            }

            fn plural((): &()) -> std::borrow::Cow<'_, str> {
                $plural.into()
            }

            fn meta(&self) -> &kube::core::ObjectMeta {
                &self.metadata
            }

            fn meta_mut(&mut self) -> &mut kube::core::ObjectMeta {
                &mut self.metadata
            }
        }

        impl $type {
            /// Returns the `apiVersion` and `kind` of this custom resource.
            pub fn type_meta() -> kube::core::TypeMeta {
                kube::core::TypeMeta::resource::<Self>()
            }
        }
    };
}
pub(crate) use custom_resource;
