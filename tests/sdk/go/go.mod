module story

go 1.23

require taskflow.example/sdk/go v0.0.0
