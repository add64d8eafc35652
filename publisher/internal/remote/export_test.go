package remote

import "time"

// PublishOnce is one attempt of Publish.
var PublishOnce = (*Remote).publishOnce

// Refuse makes r believe that the server has just refused a publish to subject.
func Refuse(r *Remote, subject string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.state.refusals.add(subject, time.Now())
}
