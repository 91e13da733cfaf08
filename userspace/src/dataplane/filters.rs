//! Programs on devices by clsact filters, for kernels before 6.6.
//!
//! A filter has no pin and outlives us all the same: a fixed priority and handle say that it is ours, and an empty
//! directory beside the pins of links notes it for `detach`.

use std::{collections::BTreeSet, mem};

use aya::{
    Ebpf,
    programs::{
        Link as _, TcAttachType,
        tc::{NlOptions, SchedClassifierLink, TcAttachOptions, TcHandle},
    },
};
use tracing::warn;

use super::{
    Device, Error,
    devices::Hook,
    error::raw_os_error,
    links::Done,
    pins::{self, Pins},
    programs::{self, classifier_mut},
    qdisc,
};
use crate::{facts::IfIndex, sys::bpf::AttachType};

/// Before all others.
const PRIORITY: u16 = 1;
/// Ours.
const HANDLE: TcHandle = TcHandle::new(0, 0x511c);

/// The filters that we know to be there.
#[derive(Debug, Default)]
pub(super) struct Filters {
    attached: BTreeSet<(IfIndex, &'static str)>,
}

impl Filters {
    /// Sees to it that the program of `hook` is on the device.
    pub(super) fn ensure(
        &mut self,
        ebpf: &mut Ebpf,
        pins: &Pins,
        device: &Device,
        hook: Hook,
    ) -> Result<Done, Error> {
        let key = (device.index, hook.program);
        let fail = |source| Error::Filter {
            hook: hook.program,
            device: device.name.clone(),
            source: Box::new(source),
        };
        if qdisc::add(device)? {
            pins::make_dir(&pins.device_link(device.index, qdisc::NOTE))?;
        }
        let classifier = classifier_mut(ebpf, hook.program)?;
        let options = NlOptions {
            priority: PRIORITY,
            handle: HANDLE,
            classid: None,
        };
        let direction = direction(hook.place);
        let created =
            classifier.attach_with_options(&device.name, direction, TcAttachOptions::Netlink(options));
        let was_there = self.attached.contains(&key);
        let (link, done) = match created {
            Ok(link) if was_there => {
                warn!(
                    device = device.name,
                    hook = hook.program,
                    "our program had been taken away"
                );
                (link, Done::Repaired)
            }
            Ok(link) => (link, Done::Attached),
            Err(error) if programs::is_taken(&error) && was_there => return Ok(Done::Nothing),
            Err(error) if programs::is_taken(&error) => {
                let old = ours(&device.name, hook.place).map_err(|error| fail(error.into()))?;
                (classifier.attach_to_link(old).map_err(fail)?, Done::Attached)
            }
            Err(error) => return Err(fail(error)),
        };
        // Dropping a link would take the filter away.
        mem::forget(classifier.take_link(link).map_err(fail)?);
        pins::make_dir(&pins.device_link(device.index, hook.program))?;
        self.attached.insert(key);
        Ok(done)
    }

    /// Forgets what is no longer wanted.
    pub(super) fn retain(&mut self, wanted: impl Fn(IfIndex, &str) -> bool) {
        self.attached.retain(|&(device, hook)| wanted(device, hook));
    }

    pub(super) fn devices_of(&self, program: &str) -> Vec<IfIndex> {
        self.attached
            .iter()
            .filter(|(_, hook)| *hook == program)
            .map(|&(device, _)| device)
            .collect()
    }
}

/// Takes our filter off a device. `false` if there is none.
pub(super) fn remove(device: &str, hook: Hook) -> Result<bool, Error> {
    let fail = |source| Error::Filter {
        hook: hook.program,
        device: device.to_owned(),
        source: Box::new(source),
    };
    let link = ours(device, hook.place).map_err(|error| fail(error.into()))?;
    match link.detach() {
        Ok(()) => Ok(true),
        Err(error)
            if matches!(
                raw_os_error(&error),
                Some(libc::ENOENT | libc::EINVAL | libc::ENODEV)
            ) =>
        {
            Ok(false)
        }
        Err(error) => Err(fail(error)),
    }
}

fn ours(device: &str, place: AttachType) -> Result<SchedClassifierLink, std::io::Error> {
    SchedClassifierLink::attached(device, direction(place), PRIORITY, HANDLE, None)
}

fn direction(place: AttachType) -> TcAttachType {
    if place == AttachType::TcxIngress {
        TcAttachType::Ingress
    } else {
        TcAttachType::Egress
    }
}
