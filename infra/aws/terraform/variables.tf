variable "bucket" {
  description = "Name of the bucket for datasets; it must be free in all of S3."
  type        = string
}

variable "input_bucket" {
  description = "Name of the bucket that the videos and the weights lie in; it stays as it is."
  type        = string
}

variable "trusted_arns" {
  description = "Who may take the roles: ARNs of roles or users of this account. Machines of EC2 may in any case."
  type        = list(string)
  default     = []
}

variable "kms_key_arn" {
  description = "ARN of the KMS key that the bucket is encrypted with; null: S3's own keys."
  type        = string
  default     = null
}

variable "days_until_old_versions_go" {
  description = "For so many days an object that was removed or overwritten can be brought back."
  type        = number
  default     = 30
}
