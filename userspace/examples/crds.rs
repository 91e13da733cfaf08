//! Writes the CustomResourceDefinitions to the standard output: `cargo xtask crds` calls it.

fn main() -> Result<(), serde_saphyr::SerializeError> {
    print!(
        "{}",
        serde_saphyr::to_string(&sluice::objects::crd::definition())?
    );
    Ok(())
}
