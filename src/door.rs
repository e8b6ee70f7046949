//! Who may come in: so many connections in all, and so many of one address.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Lets connections in, as long as there are places.
#[derive(Debug)]
pub struct Door {
    max: usize,
    max_of_one: usize,
    inside: Mutex<Inside>,
}

/// Why a connection has no place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoPlace {
    /// All are taken.
    Full,
    /// Its address has as many as one may have.
    OfAddress,
}

#[derive(Debug, Default)]
struct Inside {
    all: usize,
    by_origin: HashMap<IpAddr, usize>,
}

/// A connection's place; dropping it gives the place up.
#[derive(Debug)]
pub struct Place {
    door: Arc<Door>,
    origin: IpAddr,
}

impl Door {
    /// `max` places in all, `max_of_one` for each address, any number if 0. Of IPv6 a network of 64 bits counts
    /// as an address, and this machine has as many as it needs.
    pub fn new(max: usize, max_of_one: usize) -> Arc<Self> {
        Arc::new(Self {
            max,
            max_of_one,
            inside: Mutex::default(),
        })
    }

    /// Gives a place to a connection from `address`.
    ///
    /// # Errors
    /// [`NoPlace`] when there is none.
    pub fn enter(self: &Arc<Self>, address: IpAddr) -> Result<Place, NoPlace> {
        let origin = origin(address);
        let mut inside = self.inside();
        if inside.all >= self.max {
            return Err(NoPlace::Full);
        }
        let of_one = inside.by_origin.get(&origin).copied().unwrap_or(0);
        if self.max_of_one > 0 && of_one >= self.max_of_one && !is_this_machine(origin) {
            return Err(NoPlace::OfAddress);
        }
        inside.by_origin.insert(origin, of_one + 1);
        inside.all += 1;
        let door = Arc::clone(self);
        Ok(Place { door, origin })
    }

    fn inside(&self) -> MutexGuard<'_, Inside> {
        self.inside.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut inside = self.door.inside();
        inside.all -= 1;
        if let Some(of_one) = inside.by_origin.get_mut(&self.origin) {
            *of_one -= 1;
            if *of_one == 0 {
                inside.by_origin.remove(&self.origin);
            }
        }
    }
}

/// From here come the box's own clients, one for each of its channels. (The rest of 127.0.0.0/8
/// nobody gets without asking for it.)
fn is_this_machine(address: IpAddr) -> bool {
    [
        IpAddr::from(Ipv4Addr::LOCALHOST),
        origin(Ipv6Addr::LOCALHOST.into()),
    ]
    .contains(&address)
}

/// What counts as one address: of IPv6 the network of 64 bits, in which a host takes as many
/// addresses as it likes (RFC 8981).
fn origin(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(v6) => Ipv6Addr::from_bits(v6.to_bits() >> 64 << 64).into(),
        v4 => v4,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn one_address_gets_its_places_and_others_theirs() {
        let door = Door::new(100, 2);
        let first = door.enter(address("192.0.2.1")).unwrap();
        let _second = door.enter(address("::ffff:192.0.2.1")).unwrap();
        assert_eq!(
            door.enter(address("192.0.2.1")).err(),
            Some(NoPlace::OfAddress)
        );
        let _other = door.enter(address("192.0.2.2")).unwrap();
        drop(first);
        assert!(door.enter(address("192.0.2.1")).is_ok());
    }

    #[test]
    fn the_box_itself_has_as_many_places_as_it_needs() {
        let door = Door::new(100, 1);
        for own in ["127.0.0.1", "::ffff:127.0.0.1", "::1"] {
            let places = [door.enter(address(own)), door.enter(address(own))];
            assert!(places.iter().all(Result::is_ok), "{own}");
        }
    }

    #[test]
    fn of_ipv6_the_network_counts_and_who_has_left_is_forgotten() {
        let door = Door::new(100, 1);
        let one = door.enter(address("2001:db8::1")).unwrap();
        let same = door.enter(address("2001:db8::2:3"));
        assert_eq!(same.err(), Some(NoPlace::OfAddress));
        let other = door.enter(address("2001:db8:0:1::1")).unwrap();
        drop((one, other));
        assert!(door.inside().by_origin.is_empty());
    }

    #[test]
    fn without_a_limit_one_address_may_have_all_places_and_no_more() {
        let door = Door::new(100, 0);
        let enter = || door.enter(address("192.0.2.1"));
        let _inside: Vec<Place> = (0..100).map(|_| enter().unwrap()).collect();
        assert_eq!(enter().err(), Some(NoPlace::Full));
    }
}
