package remote

// PublishOnce is one attempt of Publish, for tests of its outcome.
var PublishOnce = (*Remote).publishOnce
