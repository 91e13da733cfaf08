//! Programs on devices by clsact filters, for kernels before 6.6.
//!
//! A filter has no pin and outlives us all the same: a fixed priority and handle say that it is ours, and an empty
//! directory beside the pins of links notes it for `detach`.

use std::{collections::BTreeSet, io, mem};

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
use crate::{facts::IfIndex, netlink::Talk, sys::bpf::AttachType};

/// Before all others.
pub(crate) const PRIORITY: u16 = 1;
/// Ours.
pub(crate) const HANDLE: TcHandle = TcHandle::new(0, 0x511c);

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
        let was_there = self.attached.contains(&key);
        let current = programs::number(ebpf, hook.program)?;
        if was_there {
            let runs = runs(device.index, hook.place).map_err(|error| fail(error.into()))?;
            if runs.is_some_and(|runs| runs.program == current) {
                return Ok(Done::Nothing);
            }
        }
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
        let link = match created {
            Ok(link) => link,
            Err(error) if programs::is_taken(&error) => {
                let old = ours(&device.name, hook.place).map_err(|error| fail(error.into()))?;
                classifier.attach_to_link(old).map_err(fail)?
            }
            Err(error) => return Err(fail(error)),
        };
        // Dropping a link would take the filter away.
        mem::forget(classifier.take_link(link).map_err(fail)?);
        pins::make_dir(&pins.device_link(device.index, hook.program))?;
        self.attached.insert(key);
        if !was_there {
            return Ok(Done::Attached);
        }
        warn!(
            device = device.name,
            hook = hook.program,
            "our program had been taken away"
        );
        Ok(Done::Repaired)
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

/// Takes our filter off a device. `false` if there is none, or if it runs the program of another hook by now: a device
/// that has changed its role.
pub(super) fn remove(index: IfIndex, device: &str, hook: Hook) -> Result<bool, Error> {
    let fail = |source| Error::Filter {
        hook: hook.program,
        device: device.to_owned(),
        source: Box::new(source),
    };
    let runs = runs(index, hook.place).map_err(|error| fail(error.into()))?;
    if runs.is_none_or(|runs| runs.name != hook.program) {
        return Ok(false);
    }
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

fn ours(device: &str, place: AttachType) -> io::Result<SchedClassifierLink> {
    SchedClassifierLink::attached(device, direction(place), PRIORITY, HANDLE, None)
}

/// What our filter runs, if it is there.
fn runs(device: IfIndex, place: AttachType) -> io::Result<Option<qdisc::Runs>> {
    qdisc::filter(&Talk::open()?, device, place, PRIORITY, HANDLE.into())
}

fn direction(place: AttachType) -> TcAttachType {
    if place == AttachType::TcxIngress {
        TcAttachType::Ingress
    } else {
        TcAttachType::Egress
    }
}
