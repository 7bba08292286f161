output "output" {
  description = "What a job's `output` begins with."
  value       = "s3://${aws_s3_bucket.datasets.bucket}/"
}

output "role_arns" {
  description = "ARNs of the roles: of a reader, a writer, and the head of a Ray cluster."
  value       = { for name, role in aws_iam_role.datasets : name => role.arn }
}

output "instance_profiles" {
  description = "Names of the instance profiles, for `ray up` and for machines of your own."
  value       = { for name, profile in aws_iam_instance_profile.datasets : name => profile.name }
}
