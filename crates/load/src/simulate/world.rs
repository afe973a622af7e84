//! The machine under all arms: how fast it is now.

use crate::stats::Rng;

/// How the machine's speed wanders. Shares are standard deviations of the logarithm.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Weather {
    /// A trend: the share by which the machine gets slower in a minute.
    pub slower_per_minute: f64,
    /// Neighbours come and go: an Ornstein-Uhlenbeck process of this size ...
    pub wander: f64,
    /// ... which forgets within this time, in seconds.
    pub forgets_s: f64,
}

impl Weather {
    pub const CALM: Self = Self { slower_per_minute: 0.0, wander: 0.0, forgets_s: 1.0 };
    /// As seen on a shared machine with two cores: a tenth up and down within half a minute.
    pub const SHARED: Self = Self { slower_per_minute: 0.0, wander: 0.10, forgets_s: 20.0 };
}

/// Simulated time, and the weather of that time.
#[derive(Clone, Debug)]
pub struct World {
    weather: Weather,
    rng: Rng,
    now_s: f64,
    level: f64,
    level_until_s: f64,
}

/// The weather changes in steps of this length.
const STEP_S: f64 = 0.1;

impl World {
    pub fn new(weather: Weather, seed: u64) -> Self {
        let mut rng = Rng::stream(seed, 0x000e_a7e5);
        let level = rng.normal() * weather.wander;
        Self { weather, rng, now_s: 0.0, level, level_until_s: STEP_S }
    }

    pub fn now_s(&self) -> f64 {
        self.now_s
    }

    /// Times never run back: an earlier time is the present.
    pub fn advance_to(&mut self, time_s: f64) {
        self.now_s = self.now_s.max(time_s);
        let keep = (-STEP_S / self.weather.forgets_s).exp();
        let fresh = self.weather.wander * (1.0 - keep * keep).sqrt();
        while self.level_until_s < self.now_s {
            self.level = keep * self.level + fresh * self.rng.normal();
            self.level_until_s += STEP_S;
        }
    }

    /// What a service time is multiplied by now.
    pub fn slowness(&self) -> f64 {
        (self.level + self.weather.slower_per_minute * self.now_s / 60.0).exp()
    }
}
